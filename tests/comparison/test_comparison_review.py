"""Faults a review found, each as it was reproduced."""

import math
import threading
from contextlib import suppress
from dataclasses import replace

import pytest

from dashpot import tasks
from dashpot.comparison import Study, entry, run_study, summarise
from dashpot.comparison.study_folder import StudyFolder
from dashpot.errors import ArgumentError, RunError
from dashpot.tasks import Target


def quadratic(**changes):
    return replace(tasks.get("quadratic"), **changes)


def test_final_scores_that_are_not_finite_are_summarised(tmp_path):
    study = Study(quadratic(), (entry("sgd", "quadratic"),), (0, 1), 1)
    runs = run_study(study, tmp_path / "out")
    for run in runs:
        run.epochs[-1]["eval"] = {"loss": math.inf}
    [row] = summarise(runs).rows
    assert (row.mean, row.sd) == (math.inf, None)


def test_a_target_of_something_not_measured_is_refused_before_anything_is_written(tmp_path):
    study = Study(quadratic(target=Target("accuracy", 0.5, "max")), (entry("sgd", "quadratic"),), (0,), 1)
    with pytest.raises(ArgumentError, match="accuracy"):
        run_study(study, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_start_that_was_killed_does_not_block_its_own_command(tmp_path):
    out = tmp_path / "out"
    (out / "runs").mkdir(parents=True)
    (out / ".study.json.abc.part").write_text("{")
    assert len(run_study(Study(quadratic(), (entry("sgd", "quadratic"),), (0,), 1), out)) == 1


def test_a_new_folder_is_claimed_under_its_lock(tmp_path):
    """Two commands started at once must not both write study.json."""
    folder = StudyFolder(tmp_path / "out")
    folder.path.mkdir()
    with folder.locked(), pytest.raises(RunError, match="Another process"):
        StudyFolder(folder.path).prepare({"seeds": [0]}, None)
    assert list(folder.path.iterdir()) == []


def test_of_two_that_start_at_once_the_folder_is_one_ones(tmp_path):
    """Whoever comes second finds another process there, or its settings: nobody writes over them."""
    for attempt in range(30):
        folder, start, claimed = StudyFolder(tmp_path / str(attempt)), threading.Barrier(2), []

        def claim(seed, folder=folder, start=start, claimed=claimed):
            start.wait()
            with suppress(RunError):
                StudyFolder(folder.path).prepare({"methods": {}, "seeds": [seed]}, None)
                claimed.append(seed)

        threads = [threading.Thread(target=claim, args=(seed,)) for seed in (0, 1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(claimed) == 1
        assert folder.study()["settings"]["seeds"] == claimed
