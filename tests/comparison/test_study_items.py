"""Items of a study: order, dependencies, selection, and the looks of a group-sequential study."""

from __future__ import annotations

import dataclasses

import pytest
from item_support import example_study, run_all
from study_support import diverging, toy

from dashpot.comparison import entry
from dashpot.comparison.study_items import (
    asked,
    finished,
    items,
    needed,
    plan,
    ready_keys,
    selected_trial,
    selected_values,
)
from dashpot.runs.search_space import sobol_point
from dashpot.scheduling.work_items import Outcome
from dashpot.tasks import Target


def outcome(key, score, status="done", values=None):
    return Outcome(key, status, score, values or {}, {})


def outcomes_of(scores):
    return {key: outcome(key, score) for key, score in scores.items()}


def tuned(**settings):
    entries = (entry("adam", "toy", lr=0.05), entry("sgd", "toy", lr=0.05))
    return example_study(*entries, **{"seeds": (0, 1), "budget": 2, **settings})


def test_items_are_ordered_by_kind_and_then_interleave_methods():
    keys = [item.key for item in items(tuned(rate_seeds=1))]
    assert keys[:4] == ["trial/adam/0", "trial/sgd/0", "trial/adam/1", "trial/sgd/1"]
    assert keys[4:8] == ["run/adam/0", "run/sgd/0", "run/adam/1", "run/sgd/1"]
    assert keys[8:12] == ["rate/adam/0.1/0", "rate/sgd/0.1/0", "rate/adam/0.5/0", "rate/sgd/0.5/0"]
    assert keys[12:] == ["rate/adam/2/0", "rate/sgd/2/0", "rate/adam/10/0", "rate/sgd/10/0"]
    assert {item.group for item in items(tuned())} == {"trials/adam", "trials/sgd", "runs"}


def test_study_without_tuning_consists_of_runs():
    study = tuned(budget=0)
    assert needed(study, {}) == ["run/adam/0", "run/sgd/0", "run/adam/1", "run/sgd/1"]
    assert ready_keys(study, {}) == set(needed(study, {}))
    assert plan(study, "run/adam/1", {}).entry is study.entries[0]
    assert plan(study, "run/adam/1", {}).values == {}
    assert asked(study, "run/adam/1") is None


def test_run_is_ready_after_all_trials_of_its_method():
    study = tuned()
    done = outcomes_of({"trial/adam/0": 0.5, "trial/sgd/0": 0.5, "trial/adam/1": 0.6})
    assert "run/adam/0" in ready_keys(study, done)
    assert "rate/adam/0.1/0" in ready_keys(study, done)
    assert "run/sgd/0" not in ready_keys(study, done)
    assert "trial/sgd/1" in ready_keys(study, done)
    assert "run/adam/0" not in ready_keys(study, outcomes_of({"trial/adam/0": 0.5}))


def test_first_trial_has_the_settings_of_the_entry():
    study = tuned()
    made = plan(study, "trial/adam/0", {})
    assert made.entry is study.entries[0]
    assert made.seed == 1000
    assert made.values == {"lr": 0.05, "momentum": 0.9, "warmup": 0.0}


def test_further_trials_follow_a_sobol_sequence_or_the_claim():
    study = tuned()
    space = study.search_spaces["adam"]
    given = asked(study, "trial/adam/1")
    assert given is not None
    assert given.given == sobol_point(space, 0, 1000)
    assert plan(study, "trial/adam/1", {}).entry.lr == given.given["lr"]
    tpe = asked(tuned(sampler="tpe"), "trial/adam/1")
    assert tpe is not None
    assert (tpe.space, tpe.given) == (space, None)
    claimed = plan(tuned(sampler="tpe"), "trial/adam/1", {}, {"lr": 0.02, "1-momentum": 0.2, "warmup": 0.1})
    assert (claimed.entry.lr, claimed.entry.options["betas"]) == (0.02, (0.8, 0.999))
    assert claimed.values == {"lr": 0.02, "momentum": 0.8, "warmup": 0.1}


def test_equal_budgets_for_all_methods():
    study = tuned(budget=5)
    counts = {name: sum(item.key.startswith(f"trial/{name}/") for item in items(study)) for name in ("adam", "sgd")}
    assert counts == {"adam": 5, "sgd": 5}


@pytest.mark.parametrize(
    ("scores", "direction", "expected"),
    [
        ({0: 0.5, 1: 0.7, 2: 0.6}, "max", 1),
        ({0: 0.5, 1: 0.7, 2: 0.6}, "min", 0),
        ({0: 0.7, 1: 0.7, 2: 0.6}, "max", 0),
        ({0: 0.6, 1: 0.7, 2: 0.7}, "max", 1),
        ({0: None, 1: 0.2, 2: 0.1}, "max", 1),
        ({0: None, 1: None, 2: None}, "max", 0),
        ({}, "max", 0),
    ],
)
def test_best_validation_score_is_selected(scores, direction, expected):
    task = toy(target=Target("loss", 0.5, direction))
    study = tuned(task=task, budget=3)
    found = {
        f"trial/adam/{number}": outcome(f"trial/adam/{number}", score, "failed" if score is None else "done")
        for number, score in scores.items()
    }
    assert selected_trial(study, "adam", found) == expected


def test_pruned_and_diverged_trials_are_not_selected():
    found = outcomes_of({"trial/adam/0": 0.5})
    found["trial/adam/1"] = outcome("trial/adam/1", 0.9, "pruned")
    assert selected_trial(tuned(), "adam", found) == 0


def test_runs_use_the_values_of_the_selected_trial():
    study = tuned()
    found = outcomes_of({"trial/adam/0": 0.5})
    found["trial/adam/1"] = outcome("trial/adam/1", 0.9, values={"lr": 0.01, "1-momentum": 0.05, "warmup": 0.0})
    run = plan(study, "run/adam/1", found)
    assert (run.seed, run.entry.lr, run.entry.options) == (1, 0.01, {"betas": (0.95, 0.999)})
    assert run.values == {"lr": 0.01, "momentum": 0.95, "warmup": 0.0}
    rate = plan(study, "rate/adam/10/0", found)
    assert (rate.seed, rate.entry.lr, rate.values) == (0, 0.1, run.values)
    assert selected_values(study, "adam", {}) == {"lr": 0.05, "1-momentum": 0.1, "warmup": 0.0}


# ---- looks ----------------------------------------------------------------------------------------------------------


def sequential(**settings):
    return tuned(budget=0, seeds=(0, 1, 2, 3, 4, 5), looks=(3, 6), **settings)


def runs(adam, sgd):
    scores = {"adam": adam, "sgd": sgd}
    return outcomes_of({f"run/{name}/{seed}": score for name in scores for seed, score in enumerate(scores[name])})


CLEAR = ([0.9, 0.91, 0.92], [0.5, 0.515, 0.52])
UNCLEAR = ([0.9, 0.6, 0.8], [0.6, 0.9, 0.7])


def test_seeds_of_the_second_look_wait_for_the_first():
    study = sequential()
    assert needed(study, {}) == [f"run/{name}/{seed}" for seed in (0, 1, 2) for name in ("adam", "sgd")]
    unfinished = runs(UNCLEAR[0], UNCLEAR[1][:2])
    assert "run/adam/3" not in ready_keys(study, unfinished)


def test_study_ends_at_a_look_that_decides_every_pair():
    study = sequential()
    assert finished(study, runs(*CLEAR))
    assert "run/adam/3" not in ready_keys(study, runs(*CLEAR))


def test_study_continues_after_a_look_that_does_not():
    study = sequential()
    found = runs(*UNCLEAR)
    assert not finished(study, found)
    assert "run/adam/3" in ready_keys(study, found)
    assert finished(study, runs(2 * UNCLEAR[0], 2 * UNCLEAR[1]))


def test_missing_scores_leave_a_pair_undecided():
    found = runs(*CLEAR)
    for seed in (0, 1):
        key = f"run/adam/{seed}"
        found[key] = dataclasses.replace(found[key], status="failed", score=None)
    assert not finished(sequential(), found)


def test_equivalence_within_the_margin_decides_a_pair():
    close = ([0.9, 0.91, 0.92], [0.9, 0.91, 0.9201])
    assert not finished(sequential(margin=1e-6), runs(*close))
    assert finished(sequential(margin=0.05), runs(*close))


def test_one_method_has_no_pair_to_decide():
    study = example_study(seeds=(0, 1, 2, 3), looks=(2, 4))
    assert finished(study, outcomes_of({"run/adam/0": 0.5, "run/adam/1": 0.7}))


# ---- whole studies --------------------------------------------------------------------------------------------------


def test_whole_study_of_tuning_runs_and_wrong_rates(tmp_path):
    study = example_study(
        *tuned().entries, diverging(), budget=2, seeds=(0, 1), rate_seeds=1, epochs=1, evaluate_every=4
    )
    found = run_all(study, tmp_path / "out")
    assert set(found) == {item.key for item in items(study)}
    assert all(found[f"trial/too-fast/{number}"].status == "diverged" for number in (0, 1))
    assert all(found[key].score is not None for key in found if not key.startswith("trial/too-fast"))


def test_decisions_do_not_depend_on_the_order_of_execution(tmp_path):
    study = tuned(epochs=1, evaluate_every=4, rate_seeds=0)
    found = run_all(study, tmp_path / "out")
    backwards = dict(reversed(found.items()))
    for key in needed(study, found):
        one, other = plan(study, key, found), plan(study, key, backwards)
        assert one.entry.call(4) == other.entry.call(4)
