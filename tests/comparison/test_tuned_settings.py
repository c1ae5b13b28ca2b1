"""Text of a search over settings: table of trials and commands."""

from __future__ import annotations

import shlex

import pytest

from dashpot.comparison.study_items import items
from dashpot.comparison.tuned_settings import tuning_text
from dashpot.errors import ArgumentError, RunError
from dashpot.runs.method_specs import parse_methods
from dashpot.runs.study import Study
from dashpot.runs.study_names import StudyNames, study_of_names
from dashpot.scheduling.dimension import Dimension
from dashpot.scheduling.work_items import Outcome

VALUES = {"lr": 0.25, "weight_decay": 0.001, "1-momentum": 0.05}


def tuned(method: str = "adamw", **changes) -> Study:
    design = {"budget": 7, "tune": ("lr", "weight_decay", "momentum")}
    return StudyNames("quadratic", methods=method, seeds=0, epochs=2, design=design, **changes).study()


def outcomes(study: Study, scores: dict[int, float | None], status: str = "done") -> dict[str, Outcome]:
    found = {}
    for number, item in enumerate(items(study)):
        score = scores.get(number)
        values = {**VALUES, "lr": 0.1 * (number + 1)}
        found[item.key] = Outcome(item.key, status if score is None else "done", score, values, {})
    return found


def test_best_trials_and_the_default_are_listed_in_order():
    study = tuned()
    text = tuning_text(study, outcomes(study, {k: 1.0 + (k - 3) ** 2 for k in range(7)}))
    lines = text.splitlines()
    assert lines[0].split() == ["trial", "lr", "weight_decay", "momentum", "validation", "loss"]
    assert [line.split()[0] for line in lines[2:8]] == ["3", "2", "4", "1", "5", "0"]
    assert "0 (default)" in lines[7]
    assert "7 trials. Best: trial 3." in text


def test_commands_use_the_best_settings():
    study = tuned(task_options={"condition": 10.0})
    text = tuning_text(study, outcomes(study, {1: 0.5, 2: 0.7}, "diverged"))
    assert "7 trials, 5 of them without a score. Best: trial 1." in text
    train, compare = (shlex.split(line.partition(":")[2]) for line in text.splitlines()[-2:])
    assert train[:7] == ["dashpot", "train", "quadratic", "--optimizer", "adamw", "--lr", "0.2"]
    assert {"weight_decay=0.001", "betas=0.95,0.999", "condition=10.0"} <= set(train)
    assert [spec.name for spec in parse_methods(compare[compare.index("--methods") + 1])] == ["adamw", "sgd"]
    assert compare[compare.index("--budget") + 1] == "7"  # the other method is tuned with the same number of trials


def test_search_without_a_score_is_an_error():
    study = tuned()
    with pytest.raises(RunError, match=r"^No trial of adamw has a score \(diverged\)"):
        tuning_text(study, outcomes(study, {}, "diverged"))


def test_names_rebuild_the_same_study(tmp_path):
    study = tuned("adamw:betas=0.9,0.98", options={"eps": 1e-7}, schedule="cosine")
    again = study_of_names(study.names, tmp_path / "study.json")
    assert again.settings() == study.settings()
    assert again.names == study.names


def test_range_of_rates_is_searched(tmp_path):
    study = tuned(rates={"adamw": (0.01, 0.25)})
    assert study.search_spaces["adamw"]["lr"] == Dimension(0.01, 0.25, log=True)
    assert set(study.search_spaces["adamw"]) == {"lr", "weight_decay", "1-momentum"}
    assert study.entry("adamw").lr == 0.05  # geometric mean
    assert study_of_names(study.names, tmp_path / "study.json").settings() == study.settings()


def test_rate_and_range_of_one_method_are_an_error():
    with pytest.raises(ArgumentError, match=r"^adamw: lr must be given once, got 0\.1 in .* and \(0\.01, 0\.25\)"):
        tuned("adamw:lr=0.1", rates={"adamw": (0.01, 0.25)})


def test_range_requires_tuned_rates():
    design = {"budget": 7, "tune": ("momentum",)}
    with pytest.raises(ArgumentError, match=r"^adamw: a range of learning rates requires .* got 0\.01\.\.0\.25"):
        StudyNames("quadratic", methods="adamw", rates={"adamw": (0.01, 0.25)}, seeds=0, design=design).study()


@pytest.mark.parametrize("names", [None, {}, {"task": "digits", "other": 1}])
def test_names_that_describe_no_study_raise(tmp_path, names):
    with pytest.raises(RunError, match=r"study\.json "):
        study_of_names(names, tmp_path / "study.json")


def test_rate_of_an_unknown_method_is_an_error():
    with pytest.raises(ArgumentError, match="Unknown method in --lr 'sgdd'"):
        StudyNames("quadratic", methods="sgd", rates={"sgdd": 0.1}).study()


def test_target_replaces_that_of_the_task():
    target = StudyNames("quadratic", methods="sgd", target=0.5).study().task.target
    assert target is not None
    assert (target.metric, target.value, target.direction) == ("loss", 0.5, "min")
