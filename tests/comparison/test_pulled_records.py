"""Completion of a folder with compact records of other machines."""

from __future__ import annotations

import dataclasses
import itertools
import shutil
from contextlib import suppress

import pytest
from item_support import example_study, run_all, run_item

from dashpot.comparison import StudyFolder, entry
from dashpot.comparison.pulled_records import pull_records
from dashpot.runs.compact_record import compact_record
from dashpot.runs.records import read_run
from dashpot.runs.run_scores import verdict_score
from dashpot.scheduling.work_items import Outcome


def study():
    return example_study(entry("adam", "toy"), entry("sgd", "toy"), epochs=1, evaluate_every=2, budget=1, rate_seeds=0)


def folder(path):
    made = StudyFolder(path)
    made.prepare(study().settings(), None)
    return made


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """Return the folder of an executed study and its outcomes."""
    out = tmp_path_factory.mktemp("executed") / "a"
    return out, run_all(study(), out)


@pytest.fixture
def outcomes(executed, tmp_path):
    """Return the outcomes of an executed study, and copy its folder to `a`."""
    shutil.copytree(executed[0], tmp_path / "a")
    return executed[1]


def test_empty_folder_is_completed(tmp_path, outcomes):
    assert pull_records(folder(tmp_path / "b"), outcomes) == len(outcomes) == 4
    for key in outcomes:
        own, pulled = (read_run(StudyFolder(tmp_path / name).item_record(key)) for name in "ab")
        assert (pulled.header, pulled.epochs, pulled.initial) == (own.header, own.epochs, own.initial)
        assert (pulled.end, verdict_score(pulled)) == (own.end, verdict_score(own))
    assert [run.entry for run in StudyFolder(tmp_path / "b").runs()] == ["adam", "sgd"]
    assert len(StudyFolder(tmp_path / "b").trials()) == 2


def test_complete_records_are_kept(tmp_path, outcomes):
    before = {key: StudyFolder(tmp_path / "a").item_record(key).read_bytes() for key in outcomes}
    assert pull_records(StudyFolder(tmp_path / "a"), outcomes) == 0
    assert {key: StudyFolder(tmp_path / "a").item_record(key).read_bytes() for key in outcomes} == before
    pull_records(folder(tmp_path / "b"), outcomes)
    assert pull_records(StudyFolder(tmp_path / "b"), outcomes) == 0


def test_pulled_item_is_not_trained_again(tmp_path, outcomes):
    pull_records(folder(tmp_path / "b"), outcomes)
    ended = run_item(study(), tmp_path / "b", "run/adam/0", outcomes, on_step=lambda _: 1 / 0)
    assert (ended.status, ended.score, ended.data) == (
        "done",
        outcomes["run/adam/0"].score,
        outcomes["run/adam/0"].data,
    )


def test_unfinished_record_is_replaced_together_with_its_checkpoint(tmp_path, outcomes):
    steps = itertools.count(1)
    with suppress(ZeroDivisionError):
        run_item(study(), tmp_path / "b", "run/adam/0", outcomes, on_step=lambda _: 1 / (3 - next(steps)))
    there = folder(tmp_path / "b")
    assert there.checkpoint("adam", 0).exists()
    pull_records(there, outcomes)
    assert not there.checkpoint("adam", 0).exists()
    assert read_run(there.record("adam", 0)).status == "done"


def test_record_of_a_worker_that_lost_its_item_is_replaced(tmp_path, outcomes):
    """The storage decides which of two finished records counts; their last lines contain the measured times."""
    run_all(study(), tmp_path / "b")
    assert pull_records(StudyFolder(tmp_path / "b"), outcomes) == len(outcomes)
    path = StudyFolder(tmp_path / "b").record("adam", 0)
    assert path.read_text() == outcomes["run/adam/0"].data["record"]


def test_outcome_without_a_record_is_ignored(tmp_path):
    outcomes = {"run/adam/0": Outcome("run/adam/0", "failed", None, {}, {})}
    assert pull_records(folder(tmp_path / "b"), outcomes) == 0
    assert StudyFolder(tmp_path / "b").runs() == []


def test_compact_record_of_a_long_run_is_small_and_keeps_the_mean(tmp_path):
    run_item(study(), tmp_path / "a", "trial/adam/0")
    run = read_run(StudyFolder(tmp_path / "a").item_record("trial/adam/0"))
    count = 12_345
    longer = dataclasses.replace(run, loss=[1 / (step + 1) for step in range(count)], lr=[0.1] * count)
    text = compact_record(longer)
    assert len(text) < 12_000
    path = tmp_path / "compact.jsonl"
    path.write_text(text)
    thin = read_run(path)
    assert len(thin.loss) == len(thin.lr) <= 200
    assert thin.steps[-1] == count
    widths = [end - start for start, end in itertools.pairwise((0, *thin.steps))]
    total = sum(width * loss for width, loss in zip(widths, thin.loss, strict=True))
    assert abs(total - sum(longer.loss)) < 1e-4 * sum(longer.loss)  # losses have six digits
    assert compact_record(thin) == text


def test_non_finite_loss_survives_thinning(tmp_path):
    run_item(study(), tmp_path / "a", "trial/adam/0")
    run = read_run(StudyFolder(tmp_path / "a").item_record("trial/adam/0"))
    text = compact_record(dataclasses.replace(run, loss=[1.0] * 999 + [float("inf")], lr=[0.1] * 1000))
    (tmp_path / "compact.jsonl").write_text(text)
    assert read_run(tmp_path / "compact.jsonl").loss[-1] == float("inf")
