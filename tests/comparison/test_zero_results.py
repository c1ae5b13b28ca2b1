"""Final figures of a study folder."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from study_support import finished

from dashpot.comparison.zero_results import _best, _cell, grid_folders, grid_of_folder
from dashpot.errors import RunError
from dashpot.runs.records import Run

SCORE = {"metric": "loss", "direction": "min", "phase": "eval", "split": "test"}
SETTINGS = {"seeds": [0, 1, 2], "score": SCORE}


def record(seed: int, losses: list[float], test: float | None = None, status: str = "done") -> Run:
    """Return a record with evaluations every 10 steps."""
    epochs = [
        {"steps": 10 * k, "train": {"loss": loss - 0.5}, "eval": {"loss": loss}, "cpu_s": 1.0}
        for k, loss in enumerate(losses, start=1)
    ]
    end = {"status": status, "test": {} if test is None else {"loss": test}}
    header = {"entry": "autosgm-1-zero-0", "seed": seed, "lr": 0.01, "score": SCORE}
    return Run(Path("a.jsonl"), header, epochs=epochs, end=end, initial={"eval": {"loss": 4.0}})


def test_cell_has_final_scores_best_evaluations_and_losses():
    found = _cell((1, "0"), {0: record(0, [3.0, 1.0, 2.0], 2.5), 2: record(2, [3.0, 2.0, 1.0], 1.5)}, [0.5], SETTINGS)
    assert (found.numerator, found.zero, found.lr, found.trials) == (1, "0", 0.01, (0.5,))
    assert found.status == ("done", "unfinished", "done")
    assert found.score == (2.5, None, 1.5)
    assert (found.validation, found.best, found.best_step) == ((2.0, None, 1.0), (1.0, None, 1.0), (20, None, 30))
    assert (found.train_loss, found.test_loss) == ((1.5, None, 0.5), (2.5, None, 1.5))
    assert found.mean == 2.0


def test_diverged_run_has_the_score_of_the_untrained_model_and_its_best_evaluation():
    run = record(0, [3.0, 2.0, math.nan], 4.1, "diverged")
    found = _cell((1, "0"), {0: run}, [], SETTINGS)
    assert (found.score[0], found.validation[0], found.best[0], found.test_loss[0]) == (4.1, 4.0, 2.0, None)


def test_best_evaluation_is_the_first_of_equal_ones():
    assert _best(record(0, [2.0, 1.0, 1.0]), SCORE) == (20, 1.0)
    assert _best(record(0, [2.0, 1.0, 3.0]), {**SCORE, "direction": "max"}) == (30, 3.0)
    assert _best(record(0, [math.nan]), SCORE) is None
    assert _best(None, SCORE) is None


def test_folders_with_records_are_found_by_workload_and_tier(tmp_path):
    for name in ("wikitext-cpu", "digits-smoke", "other-cpu", "digits-cpu"):
        (tmp_path / name / "tuning").mkdir(parents=True)
        (tmp_path / name / "study.json").write_text("{}")
        if name != "digits-cpu":
            (tmp_path / name / "tuning" / "trial0.jsonl").write_text("{}")
    assert grid_folders(tmp_path) == [("digits", "smoke"), ("wikitext", "cpu")]


@pytest.mark.slow
def test_folder_of_other_methods_raises(tmp_path):
    finished(tmp_path / "digits-cpu", "sgd", epochs=1)
    with pytest.raises(RunError, match="is not a study of zeros: it contains the method sgd"):
        grid_of_folder(tmp_path / "digits-cpu", "digits", "cpu")
