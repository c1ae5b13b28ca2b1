"""Entries: names, default learning rates, options and calls."""

from __future__ import annotations

import warnings

import pytest
import torch
from study_support import build
from torch import nn

import dashpot
from dashpot import schedules
from dashpot.comparison import DEFAULT_METHODS, Entry, default_lr, entry, known_entries
from dashpot.errors import ArgumentError
from dashpot.optimizers.registry import METHODS
from dashpot.runs.default_lr import TUNED_LR
from dashpot.tasks import names


def test_every_method_has_an_entry():
    assert set(METHODS) <= set(known_entries())
    assert set(DEFAULT_METHODS) <= set(known_entries())


def test_tuned_lrs_cover_known_tasks_and_default_methods():
    for task, rates in TUNED_LR.items():
        assert task in names()
        assert set(rates) <= set(known_entries())
        assert set(DEFAULT_METHODS) <= set(rates)
        assert all(rate > 0 for rate in rates.values())


def test_default_lr_of_unknown_task_is_the_generic_lr():
    assert {default_lr("mine", f"autosgm-{k}") for k in range(5)} == {METHODS["autosgm"].lr}
    assert default_lr("mine", "sgd") == 0.1


@pytest.mark.diagonal
@pytest.mark.filterwarnings("ignore:1cycle schedules only the learning rate")
@pytest.mark.parametrize("schedule", [None, "cosine", "1cycle", "warmup-linear"])
@pytest.mark.parametrize("name", known_entries())
def test_call_evaluates_to_the_same_recipe(name, schedule):
    model = nn.Linear(2, 2)
    made = entry(name, "digits", schedule=schedule)
    pasted = eval(made.call(50), {"dashpot": dashpot, "model": model, **vars(schedules)})
    assert pasted.recipe == made.optimizer(model.parameters(), 50).recipe
    assert pasted.recipe.lr == default_lr("digits", name)


SCHEDULED_MOMENTUM = {
    "heavy-ball": "momentum",
    "adam": "betas[0]",
    "adamw": "betas[0]",
    "nadam": "betas[0]",
    "centered-adam": "betas[0]",
    "autosgm": "momentum",
    "adahessian": "betas[0]",
    "sophia": "betas[0]",
}
NO_MOMENTUM = ("sgd", "rmsprop", "adagrad")


@pytest.mark.parametrize("name", METHODS)
def test_one_cycle_schedules_momentum_if_the_recipe_supports_it(name):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        line = entry(name, "toy", schedule="1cycle")
    moved = line.arguments(10)["schedule"]
    assert moved["lr"] == schedules.OneCycle(10)
    if name in SCHEDULED_MOMENTUM:
        assert moved[SCHEDULED_MOMENTUM[name]] == schedules.OneCycleMomentum(10)
    assert len(moved) == (2 if name in SCHEDULED_MOMENTUM else 1)
    assert [str(item.message) for item in caught] == (
        []
        if name in SCHEDULED_MOMENTUM or name in NO_MOMENTUM
        else [f"1cycle schedules only the learning rate of {name}, not its momentum."]
    )


def test_one_cycle_uses_the_given_momentum_options():
    moved = entry("sgd", "toy", schedule="1cycle", options={"momentum": 0.9}).arguments(10)["schedule"]
    assert moved["momentum"].table(10)[2] == 0.85
    with_none = entry("adam", "toy", schedule="1cycle", options={"betas": (0.0, 0.99)}).arguments(10)["schedule"]
    assert list(with_none) == ["lr"]


def test_entry_accepts_options_of_the_method_and_rejects_unknown_ones():
    line = entry("autosgm-3", "toy", options={"weight_decay": 0.1, "max_norm": 1.0})
    assert line.options == {"numerator": 3, "weight_decay": 0.1, "max_norm": 1.0}
    with pytest.raises(ArgumentError, match="Unknown setting of adamw 'weigt_decay': did you mean 'weight_decay'"):
        entry("adamw", "toy", options={"weigt_decay": 0.1})
    with pytest.raises(
        ArgumentError, match=r"^The settings of adamw must not contain lr; give the learning rate by lr"
    ):
        entry("adamw", "toy", options={"lr": 1})
    for name in ("schedule", "params", "self"):
        with pytest.raises(ArgumentError, match="Unknown setting of adamw"):
            entry("adamw", "toy", options={name: 1})


def test_autosgm_variants_have_different_recipes():
    model = build(0).model
    texts = {repr(entry(f"autosgm-{k}", "toy").optimizer(model.parameters(), 1).recipe) for k in range(5)}
    assert len(texts) == 5


def test_schedule_spans_the_whole_run():
    optimizer = entry("sgd", "toy", lr=1.0, schedule="linear").optimizer(build(0).model.parameters(), 10)
    assert dict(optimizer.recipe.schedule)["lr"].table(11)[-1] == 0.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("adamm", "toy"), "Unknown method 'adamm': did you mean 'adam'"),
        (("autosgm-5", "toy"), "Unknown method 'autosgm-5': did you mean 'autosgm"),
        (("", "toy"), "Unknown method ''"),
    ],
)
def test_unknown_method_error_suggests_the_closest_name(arguments, message):
    with pytest.raises(ArgumentError, match=message):
        entry(*arguments)


def test_entry_rejects_unknown_schedule():
    with pytest.raises(ArgumentError, match=r"cosin.*did you mean 'cosine'"):
        entry("adam", "toy", schedule="cosin")


def test_call_of_external_optimizer_has_its_qualified_name():
    def mine(params, lr):
        return torch.optim.SGD(params, lr)

    assert Entry("a", torch.optim.Adam, 0.1).call(1) == "torch.optim.Adam(model.parameters(), lr=0.1)"
    assert Entry("b", mine, 0.1).call(1).endswith("test_runs_entries.mine(model.parameters(), lr=0.1)")
