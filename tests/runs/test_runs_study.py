"""Settings of a study: tuning, looks, seeds of the sensitivity, evaluation grid, and their plain data."""

from __future__ import annotations

import json

import pytest
import torch
from item_support import build_with_test, example_study
from study_support import build, toy

from dashpot.comparison import Entry, entry
from dashpot.errors import ArgumentError
from dashpot.runs.study import MARGIN
from dashpot.runs.tuning_options import BUDGET
from dashpot.scheduling.dimension import Dimension
from dashpot.tasks import Problem


def two():
    return entry("adam", "toy"), entry("sgd", "toy")


def test_settings_are_plain_json():
    settings = example_study(*two(), budget=3, seeds=(0, 1, 2, 3), looks=(2, 4)).settings()
    assert json.loads(json.dumps(settings)) == settings
    assert settings["score"] == {
        "metric": "accuracy",
        "direction": "max",
        "phase": "eval",
        "target": 0.8,
        "split": "test",
        "margin": 0.05,
    }
    assert settings["tuning"]["spaces"]["sgd"]["lr"] == {"low": 0.00333333, "high": 3.0, "log": True}
    assert (settings["tuning"]["budget"], settings["tuning"]["seed"]) == (3, 1000)
    assert settings["rates"] == {"factors": [0.1, 0.5, 2.0, 10.0], "seeds": [0, 1]}
    assert settings["looks"] == [2, 4]


@pytest.mark.parametrize(
    "change",
    [
        {"budget": 4},
        {"tune": ("lr",)},
        {"sampler": "tpe"},
        {"pruner": "median"},
        {"evaluate_every": 3},
        {"looks": (3,)},
        {"rate_seeds": 0},
        {"margin": 0.1},
        {"spaces": {"adam": {"lr": Dimension(0.001, 0.01, log=True)}}},
    ],
)
def test_every_setting_identifies_the_study(change):
    given = {"budget": 3, "seeds": (0, 1, 2)}
    assert example_study(**given).settings() != example_study(**{**given, **change}).settings()


def without_evaluation(seed: int) -> Problem:
    problem = build(seed)
    problem.evaluation = None
    return problem


@pytest.mark.parametrize(
    ("built", "phase", "split"),
    [(build_with_test, "eval", "test"), (build, "eval", "validation"), (without_evaluation, "train", "train")],
)
def test_verdict_uses_the_best_data_that_the_task_has(built, phase, split):
    score = example_study(task=toy(build=built)).settings()["score"]
    assert (score["phase"], score["split"], score["margin"]) == (phase, split, None)


def test_margin_of_the_study_replaces_that_of_the_task():
    assert example_study(margin=0.2).settings()["score"]["margin"] == 0.2


@pytest.mark.parametrize(("epochs", "every", "expected"), [(1, None, 1), (5, None, 2), (5, 7, 7), (1, 100, 4)])
def test_default_grid_has_at_most_twelve_evaluations(epochs, every, expected):
    settings = example_study(epochs=epochs, evaluate_every=every).settings()
    assert settings["evaluate_every"] == expected
    assert settings["steps"] == 4 * epochs
    assert -(-settings["steps"] // expected) <= 12


def test_tuning_seed_is_not_a_judged_seed():
    assert example_study().tuning_seed == 1000
    assert example_study(seeds=(1000, 0, 1001)).tuning_seed == 1002


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, ()),
        ({"budget": 1}, (0,)),
        ({"budget": 1, "seeds": (4, 5, 6)}, (4, 5)),
        ({"budget": 1, "rate_seeds": 0}, ()),
        ({"seeds": (4, 5, 6), "rate_seeds": 3}, (4, 5, 6)),
    ],
)
def test_seeds_of_wrong_rates(settings, expected):
    assert example_study(**settings).rated_seeds == expected


def test_given_space_replaces_that_of_the_table():
    space = {"lr": Dimension(0.001, 0.01, log=True)}
    study = example_study(*two(), budget=2, tune=("momentum",), spaces={"adam": space})
    assert study.search_spaces == {"adam": space, "sgd": {}}
    assert (study.trials("adam"), study.trials("sgd")) == (2, 0)  # SGD has nothing to tune
    assert example_study(*two()).trials("adam") == 0


@pytest.mark.parametrize("value", BUDGET.refused())
def test_invalid_budget_raises(value):
    with pytest.raises(ArgumentError, match="Study: budget must be"):
        example_study(budget=value)


@pytest.mark.parametrize("value", [value for value in MARGIN.refused() if value is not None])
def test_invalid_margin_raises(value):
    with pytest.raises(ArgumentError, match="Study: margin must be"):
        example_study(margin=value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sampler": "random"}, "Study: sampler must be one of 'qmc', 'tpe', 'grid', got 'random'"),
        ({"pruner": "hyperband"}, "Study: pruner must be one of 'none', 'median'"),
        ({"evaluate_every": 0}, r"Study: evaluate_every must be an integer in \[1, inf\)"),
        ({"rate_seeds": 2}, r"Study: rate_seeds must be an integer in \[0, 1\], got 2"),
        ({"tune": ("lr", "beta")}, "Unknown setting to tune 'beta'"),
        ({"spaces": {"sgd": {}}}, "Unknown method in spaces 'sgd'"),
        ({"seeds": (0, 1, 2), "looks": (2,)}, r"looks must increase up to the number of seeds, 3, got \(2,\)"),
        ({"seeds": (0, 1, 2), "looks": (3, 3)}, "looks must increase"),
        ({"seeds": (0, 1, 2), "looks": (1, 3)}, r"Study: looks must be an integer in \[2, inf\)"),
    ],
)
def test_invalid_settings_raise(settings, message):
    with pytest.raises(ArgumentError, match=message):
        example_study(**settings)


def test_factory_without_a_name_is_described():
    import functools

    made = Entry("a", functools.partial(torch.optim.SGD, momentum=0.9), 0.1)
    call = example_study(made).settings()["methods"]["a"]
    assert call == "functools.partial(torch.optim.SGD, momentum=0.9)(model.parameters(), lr=0.1)"
