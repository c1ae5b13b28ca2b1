"""Search spaces: every method of the registry, other optimizers, schedules, and points of the Sobol sequence."""

from __future__ import annotations

import functools
import itertools
import re
from pathlib import Path

import pytest
import torch

import dashpot as dp
from dashpot import schedules
from dashpot.errors import ArgumentError
from dashpot.names import METHODS, known_methods
from dashpot.runs.entries import Entry, entry
from dashpot.runs.search_space import (
    COMPLEMENT,
    Dimension,
    apply,
    default_values,
    search_space,
    settings_of,
    sobol_point,
)

STEPS = 40


def optimizer(chosen):
    return chosen.optimizer([torch.zeros(2, requires_grad=True)], STEPS)


@pytest.mark.parametrize("name", known_methods())
def test_every_method_can_be_built_at_every_point(name):
    chosen = entry(name, "unknown task")
    space = search_space(chosen)
    assert "lr" in space
    for number in range(4):
        point = sobol_point(space, number, 1000)
        assert set(point) == set(space)
        assert all(space[key].contains(value) for key, value in point.items())
        built = optimizer(apply(chosen, point))
        group = built.param_groups[0]
        momentum = group["betas"][0] if "betas" in group else group.get("momentum")
        assert COMPLEMENT not in point or momentum == settings_of(point)["momentum"]
        assert "weight_decay" not in point or group["weight_decay"] == point["weight_decay"]


@pytest.mark.parametrize("name", known_methods())
@pytest.mark.parametrize("schedule", [None, "cosine:floor=0.1", "warmup-linear:warmup=0.05"])
def test_default_values_give_the_recipe_of_the_entry(name, schedule):
    chosen = entry(name, "digits", schedule=schedule)
    values = default_values(chosen)
    space = search_space(chosen)
    assert all(dimension.contains(values[key]) for key, dimension in space.items())
    applied = apply(chosen, {key: values[key] for key in space})
    assert optimizer(applied).recipe == optimizer(chosen).recipe


@pytest.mark.parametrize("name", [name for name in METHODS if name != "autosgm"])
def test_rate_is_searched_around_the_generic_rate_whatever_the_task(name):
    rate = METHODS[name].lr
    for chosen in (entry(name, "unknown task"), entry(name, "digits"), entry(name, "digits", lr=rate)):
        space = search_space(chosen, ["lr"])
        low, high = space["lr"].low, space["lr"].high
        assert low == pytest.approx(min(rate / 30, chosen.lr), rel=1e-5)  # limits have 6 digits
        assert high == pytest.approx(max(rate * 30, chosen.lr), rel=1e-5)


def test_generic_rates_are_documented():
    page = (Path(__file__).parents[2] / "docs" / "compare.md").read_text()
    table = page.partition("| generic rate |")[2].partition("\n\n")[0]
    rows = re.findall(r"^\| ([\d.]+) \| ([a-z, -]+) \|$", table, re.MULTILINE)
    assert {name: float(rate) for rate, names in rows for name in names.split(", ")} == {
        name: row.lr for name, row in METHODS.items()
    }


def test_range_is_widened_to_the_value_of_the_entry():
    space = search_space(entry("qhm", "digits", lr=100.0, options={"weight_decay": 0.5}))
    assert (space["lr"].high, space["weight_decay"].high, space[COMPLEMENT].low) == (100.0, 0.5, 0.001)


def test_settings_that_are_zero_are_not_searched():
    assert list(search_space(entry("sgd", "toy"))) == ["lr", "warmup"]
    with_both = entry("sgd", "toy", options={"momentum": 0.9, "weight_decay": 1e-4})
    assert list(search_space(with_both)) == ["lr", "weight_decay", COMPLEMENT, "warmup"]
    assert list(search_space(Entry("zero", torch.optim.Adam, 0.0))) == [COMPLEMENT, "warmup"]


def test_torch_optimizers_have_the_space_of_the_table():
    assert list(search_space(Entry("a", torch.optim.AdamW, 0.01))) == ["lr", "weight_decay", COMPLEMENT, "warmup"]
    assert list(search_space(Entry("a", torch.optim.Adadelta, 0.01))) == ["lr", "warmup"]
    made = Entry("a", lambda params, lr, momentum=0.9: torch.optim.SGD(params, lr, momentum=momentum), 0.01)
    assert list(search_space(made)) == ["lr", COMPLEMENT, "warmup"]
    fixed = Entry("a", lambda params, lr: torch.optim.SGD(params, lr, momentum=0.9), 0.01)
    assert list(search_space(fixed)) == ["lr", "warmup"]
    partial = Entry("a", functools.partial(torch.optim.SGD, nesterov=True, momentum=0.8), 0.01)
    assert list(search_space(partial)) == ["lr", COMPLEMENT, "warmup"]
    assert optimizer(apply(partial, {COMPLEMENT: 0.3})).param_groups[0]["momentum"] == pytest.approx(0.7)


@pytest.mark.parametrize("schedule", ["1cycle", "step", "cosine:after=rise", "window:shape=flat"])
def test_schedules_without_warmup_have_none(schedule):
    assert "warmup" not in search_space(entry("sgd", "toy", schedule=schedule))


def test_scheduled_momentum_is_not_searched():
    assert COMPLEMENT not in search_space(entry("adam", "toy", schedule="1cycle"))


def test_schedule_given_as_a_function_has_no_warmup():
    chosen = Entry("a", dp.SGD, 0.1, schedule=schedules.Cosine)
    assert "warmup" not in search_space(chosen)


def test_warmup_precedes_the_schedule_of_the_entry():
    chosen = apply(entry("sgd", "toy", schedule="cosine:floor=0.1"), {"warmup": 0.1})
    assert chosen.schedule is not None
    table = [chosen.schedule(STEPS).value(1.0, step) for step in range(STEPS + 1)]
    assert table[0] == pytest.approx(0.01)
    assert max(table) == table[4] == pytest.approx(1.0)
    assert table[-1] == pytest.approx(0.1)
    assert chosen.schedule_name == "warmup-cosine:floor=0.1,warmup=0.1"


def test_unknown_setting_raises():
    with pytest.raises(ArgumentError, match="Unknown setting to tune 'momentun': did you mean 'momentum'"):
        search_space(entry("sgd", "toy"), ["momentun"])


@pytest.mark.parametrize(("low", "high", "log"), [(1.0, 1.0, False), (0.0, 1.0, True), (0.0, float("inf"), False)])
def test_dimension_rejects_invalid_limits(low, high, log):
    with pytest.raises(ArgumentError, match="Dimension: low"):
        Dimension(low, high, log)


def test_points_do_not_depend_on_the_number_of_points():
    space = search_space(entry("adamw", "toy"))
    points = [sobol_point(space, number, 7) for number in range(16)]
    assert [sobol_point(space, number, 7) for number in reversed(range(16))] == points[::-1]
    assert len({point["lr"] for point in points}) == 16
    assert sobol_point(space, 0, 8) != points[0]
    assert sobol_point({}, 3) == {}


def test_points_cover_each_range_evenly():
    """Each eighth of a range, on its scale, contains exactly two of 16 points, as a Sobol sequence guarantees."""
    space = {"lr": Dimension(1e-4, 1.0, log=True), "warmup": Dimension(0.0, 0.2)}
    points = [sobol_point(space, number, 3) for number in range(16)]
    for name, dimension in space.items():
        edges = [dimension.at(share / 8) for share in range(9)]
        counts = [sum(low <= point[name] < high for point in points) for low, high in itertools.pairwise(edges)]
        assert counts == [2] * 8


def test_values_on_trial_do_not_warn():
    """The momentum on trial is below this zero, about which a filter warns."""
    known = default_values(entry("autosgm-1", "digits", options={"zero": 0.9}))
    assert known["1-momentum"] == 0.1
