"""Remarks on the records of a study: runs that do not start equally, and trials without a score."""

from __future__ import annotations

import dataclasses
import itertools
import json

import pytest
import torch
from study_support import build, diverging, study, toy

from dashpot.comparison import Entry, Study, judge, results_of_folder, run_study
from dashpot.errors import RunError
from dashpot.runs.study_names import StudyNames, study_of_names


def notes_of(given: Study, out) -> tuple[str, ...]:
    run_study(given, out)
    return judge(results_of_folder(out)).notes


def without_seed():
    """Return a function that builds the toy problem with different weights in each call."""
    calls = itertools.count()
    return lambda seed: dataclasses.replace(build(seed), model=build(1000 * next(calls) + seed).model)


def test_runs_that_start_equally_have_no_remark(tmp_path):
    assert not any(
        "untrained models" in note for note in notes_of(study("adam", "sgd", seeds=(0, 1), epochs=1), tmp_path)
    )


def test_model_without_seed_is_noted(tmp_path):
    given = dataclasses.replace(study("adam", "sgd", seeds=(0, 1), epochs=1), task=toy(build=without_seed()))
    found = [note for note in notes_of(given, tmp_path) if note.startswith("The untrained models of seed 0 differ")]
    assert len(found) == 1
    assert "the task does not seed its model" in found[0]


def test_data_that_change_before_a_resume_are_noted(tmp_path):
    run_study(study("adam", "sgd", epochs=1), tmp_path)
    (tmp_path / "study.journal").unlink()
    (tmp_path / "runs" / "sgd-seed0.jsonl").unlink()

    def changed(seed):
        problem = build(seed)
        loss = problem.loss
        return dataclasses.replace(problem, loss=lambda output, target: 2 * loss(output, target))

    given = dataclasses.replace(study("adam", "sgd", epochs=1), task=toy(build=changed))
    assert any("the task or its data changed during the study" in note for note in notes_of(given, tmp_path))


class Crashing(torch.optim.SGD):
    """An optimizer that raises an error, without a message, if its rate is not 0.1."""

    def step(self, closure=None):
        if self.param_groups[0]["lr"] != 0.1:
            raise MemoryError
        return super().step(closure)


def test_failed_trials_are_noted(tmp_path):
    given = Study(toy(), (Entry("crashing", Crashing, 0.1),), (0,), 1, budget=3, tune=("lr",), rate_seeds=0)
    assert "crashing: of 3 tuning trials, 2 failed: MemoryError." in notes_of(given, tmp_path)


def test_trials_without_any_score_are_noted(tmp_path):
    given = Study(toy(), (diverging(),), (0,), 1, budget=2, tune=("lr",), rate_seeds=0)
    expected = "too-fast: no tuning trial has a score (2 diverged); its runs use the default settings."
    assert expected in notes_of(given, tmp_path)


def test_divergence_without_an_untrained_score_is_not_said_to_have_one(tmp_path):
    task = toy(build=lambda seed: dataclasses.replace(build(seed), loss=lambda output, _: output.sum() * torch.nan))
    given = dataclasses.replace(study("adam"), task=dataclasses.replace(task, target=None))
    given = dataclasses.replace(given, task=dataclasses.replace(given.task, build=without_metrics(given.task.build)))
    found = [note for note in notes_of(given, tmp_path) if note.startswith("adam: 1 of 1 run diverged")]
    assert [note.partition("; ")[2][:22] for note in found] == ["they have no score, si"]


def without_metrics(make):
    return lambda seed: dataclasses.replace(make(seed), metrics={})


@pytest.mark.parametrize(
    "change", [{"design": {"nonsense": 1}}, {"seeds": "three"}, {"rates": 5}, {"task_options": []}]
)
def test_damaged_names_of_a_study_raise_an_error(change, tmp_path):
    names = {**json.loads(json.dumps(StudyNames("quadratic", methods="sgd").plain())), **change}
    with pytest.raises(RunError, match=r"study\.json is damaged: .*; restore it"):
        study_of_names(names, tmp_path / "study.json")
