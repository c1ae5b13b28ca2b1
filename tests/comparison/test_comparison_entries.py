"""Entries: names, rates, and calls that paste back."""

from __future__ import annotations

import warnings

import pytest
import torch
from comparison_support import build
from torch import nn

import dashpot
from dashpot import schedules
from dashpot.comparison import DEFAULT_METHODS, Entry, default_lr, entry, known_entries
from dashpot.comparison.sweep import grid, sweep
from dashpot.errors import ArgumentError
from dashpot.optimizers.registry import METHODS
from dashpot.runs.default_lr import TUNED_LR
from dashpot.tasks import get, names


def test_every_method_can_be_compared():
    assert set(METHODS) <= set(known_entries())
    assert set(DEFAULT_METHODS) <= set(known_entries())


def test_tuned_rates_are_of_known_tasks_and_methods_and_cover_all_compared_by_default():
    for task, rates in TUNED_LR.items():
        assert task in names()
        assert set(rates) <= set(known_entries())
        assert set(DEFAULT_METHODS) <= set(rates)
        assert all(rate > 0 for rate in rates.values())


def test_an_unknown_task_takes_generic_rates_and_variants_their_methods():
    assert {default_lr("mine", f"autosgm-{k}") for k in range(5)} == {METHODS["autosgm"].lr}
    assert default_lr("mine", "sgd") == 0.1


@pytest.mark.filterwarnings("ignore:1cycle moves only the learning rate")
@pytest.mark.parametrize("schedule", [None, "cosine", "1cycle", "warmup-linear"])
@pytest.mark.parametrize("name", known_entries())
def test_the_call_pastes_back_to_the_same_recipe(name, schedule):
    model = nn.Linear(2, 2)
    made = entry(name, "digits", schedule=schedule)
    pasted = eval(made.call(50), {"dashpot": dashpot, "model": model, **vars(schedules)})
    assert pasted.recipe == made.optimizer(model.parameters(), 50).recipe
    assert pasted.recipe.lr == default_lr("digits", name)


MOVED = {
    "heavy-ball": "momentum",
    "adam": "betas[0]",
    "adamw": "betas[0]",
    "nadam": "betas[0]",
    "centered-adam": "betas[0]",
    "autosgm": "momentum",
    "adahessian": "betas[0]",
    "sophia": "betas[0]",
}
NO_MOMENTUM = ("sgd", "rmsprop")


@pytest.mark.parametrize("name", METHODS)
def test_one_cycle_moves_the_momentum_where_there_is_one_and_a_recipe_can_carry_it(name):
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        line = entry(name, "toy", schedule="1cycle")
    moved = line.arguments(10)["schedule"]
    assert moved["lr"] == schedules.OneCycle(10)
    if name in MOVED:
        assert moved[MOVED[name]] == schedules.OneCycleMomentum(10)
    assert len(moved) == (2 if name in MOVED else 1)
    assert [str(item.message) for item in told] == (
        []
        if name in MOVED or name in NO_MOMENTUM
        else [f"1cycle moves only the learning rate of {name}, not its momentum."]
    )


def test_one_cycle_goes_by_the_momentum_that_is_given():
    moved = entry("sgd", "toy", schedule="1cycle", options={"momentum": 0.9}).arguments(10)["schedule"]
    assert moved["momentum"].table(10)[2] == 0.85
    with_none = entry("adam", "toy", schedule="1cycle", options={"betas": (0.0, 0.99)}).arguments(10)["schedule"]
    assert list(with_none) == ["lr"]


def test_options_are_the_methods_own_and_misnamed_ones_are_refused():
    line = entry("autosgm-3", "toy", options={"weight_decay": 0.1, "max_norm": 1.0})
    assert line.options == {"numerator": 3, "weight_decay": 0.1, "max_norm": 1.0}
    with pytest.raises(ArgumentError, match="Unknown setting of adamw 'weigt_decay': did you mean 'weight_decay'"):
        entry("adamw", "toy", options={"weigt_decay": 0.1})
    for name in ("lr", "schedule", "params", "self"):
        with pytest.raises(ArgumentError, match="Unknown setting of adamw"):
            entry("adamw", "toy", options={name: 1})


def test_autosgm_variants_differ_in_their_numerator():
    model = build(0).model
    texts = {repr(entry(f"autosgm-{k}", "toy").optimizer(model.parameters(), 1).recipe) for k in range(5)}
    assert len(texts) == 5


def test_schedules_span_the_whole_run():
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
def test_unknown_methods_suggest_the_nearest(arguments, message):
    with pytest.raises(ArgumentError, match=message):
        entry(*arguments)


def test_an_unknown_schedule_is_refused_before_any_run():
    with pytest.raises(ArgumentError, match=r"cosin.*did you mean 'cosine'"):
        entry("adam", "toy", schedule="cosin")


def test_entries_of_other_libraries_name_where_they_come_from():
    def mine(params, lr):
        return torch.optim.SGD(params, lr)

    assert Entry("a", torch.optim.Adam, 0.1).call(1) == "torch.optim.Adam(model.parameters(), lr=0.1)"
    assert Entry("b", mine, 0.1).call(1).endswith("test_comparison_entries.mine(model.parameters(), lr=0.1)")


def test_the_sweep_finds_the_best_rate_of_a_quadratic():
    task = get("quadratic")
    best, *others = sweep(task, "sgd", epochs=2)
    assert all(best.score <= other.score for other in others)
    tried = {trial.lr for trial in (best, *others)}
    place = next(k for k in range(-12, 12) if grid(k) == best.lr)
    assert {grid(place - 1), grid(place + 1)} <= tried


def test_the_sweep_goes_down_while_everything_diverges_and_stops_at_its_limit():
    trials = sweep(get("rosenbrock"), "sgd", epochs=1, max_runs=3)
    assert len(trials) == 3
    deep = sweep(get("rosenbrock"), "sgd", epochs=1)
    assert abs(deep[0].score) < float("inf")


@pytest.mark.parametrize("bad", [{"by": "luck"}, {"max_runs": 0}])
def test_bad_sweeps_are_refused(bad):
    with pytest.raises(ArgumentError, match="sweep: "):
        sweep(get("quadratic"), "sgd", **bad)
