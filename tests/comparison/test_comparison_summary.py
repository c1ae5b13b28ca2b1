"""Summary of runs, compared with values computed by hand."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from dashpot.comparison import Run, summarise
from dashpot.runs.table import markdown_table, score_text, text_table

SCORE = {"metric": "accuracy", "direction": "max", "phase": "eval", "target": 0.8}


def run(entry: str, seed: int, scores: list[float], status: str | None = "done", score: dict | None = None) -> Run:
    """Return a run with one epoch per score, out of four planned epochs of ten steps and 0.5 CPU seconds each."""
    score = SCORE if score is None else score
    header = {"entry": entry, "seed": seed, "lr": 0.1, "score": score, "epochs": 4, "steps_per_epoch": 10}
    epochs = [
        {"epoch": i, "steps": 10 * i, "eval": {score["metric"]: value}, "train": {score["metric"]: -1.0}, "cpu_s": 0.5}
        for i, value in enumerate(scores, start=1)
    ]
    end = None if status is None else {"status": status, "step": 3, "loss": "nan"}
    return Run(Path("record"), header, [1.0], [0.1], epochs, end)


def test_row_of_three_seeds():
    runs = [run("m", 0, [0.5, 0.8, 0.9]), run("m", 1, [0.6, 0.7, 0.84]), run("m", 2, [0.81, 0.7, 0.78])]
    [row] = summarise(runs).rows
    assert row.finals == (0.9, 0.84, 0.78)
    assert row.mean == pytest.approx(0.84, abs=1e-15)
    assert row.sd == pytest.approx(0.06, abs=1e-15)  # sqrt((0.0036 + 0 + 0.0036) / 2)
    assert row.best == 0.9
    assert row.steps_to_target == 20  # median of 20, 30 and 10, the steps at which the target is met
    assert (row.reached, row.done, row.diverged, row.unfinished) == (3, 3, 0, 0)
    assert row.cpu_s == 1.5


@pytest.mark.parametrize(
    ("scores", "median", "reached", "cell"),
    [
        ([[0.9], [0.7, 0.9], [0.1]], 20, 2, "20 (2 of 3)"),
        ([[0.9], [0.1], [0.1]], math.inf, 1, "> 40 (1 of 3)"),
        ([[0.9], [0.1]], math.inf, 1, "> 40 (1 of 2)"),
        ([[0.9], [0.1, 0.9]], 15, 2, "15"),
        ([[0.1], [0.1]], math.inf, 0, "> 40 (0 of 2)"),
    ],
)
def test_runs_that_miss_the_target_count_as_infinite(scores, median, reached, cell):
    summary = summarise([run("m", seed, values) for seed, values in enumerate(scores)])
    [row] = summary.rows
    assert (row.steps_to_target, row.reached) == (median, reached)
    assert summary.cells(row)[5] == cell


def test_diverged_run_has_no_score_but_counts_for_the_target():
    summary = summarise(
        [run("m", 0, [0.9]), run("m", 1, [0.95], status="diverged"), run("m", 2, [], status="diverged")]
    )
    [row] = summary.rows
    assert row.finals == (0.9,)
    assert (row.done, row.diverged) == (1, 2)
    assert row.reached == 2  # one of the diverged runs met the target before it diverged
    assert summary.header()[-1] == "diverged"
    assert summary.cells(row)[-1] == "2"


def test_deviation_has_the_decimals_of_its_mean():
    summary = summarise([run("a", 0, [0.5]), run("a", 1, [0.50002])])
    assert summary.cells(summary.rows[0])[2:4] == ["0.5000", "0.0000"]
    tiny = summarise([run("a", 0, [1e-9]), run("a", 1, [3e-9])])
    assert tiny.cells(tiny.rows[0])[2:4] == ["2e-09", "1.41e-09"]


def test_one_seed_has_no_deviation_and_no_seed_no_score():
    summary = summarise([run("one", 0, [0.5]), run("none", 0, [], status="diverged")])
    assert [row.name for row in summary.rows] == ["one", "none"]
    assert summary.cells(summary.rows[0])[2:5] == ["0.5000", "-", "0.5000"]
    assert summary.cells(summary.rows[1])[2:5] == ["-", "-", "-"]
    assert summary.cells(summary.rows[1])[6] == "-"


@pytest.mark.parametrize(("direction", "order", "best"), [("max", ["b", "a"], 0.9), ("min", ["a", "b"], 0.5)])
def test_order_and_best_follow_the_score_direction(direction, order, best):
    score = {**SCORE, "metric": "loss", "direction": direction}
    summary = summarise([run("a", 0, [0.5], score=score), run("b", 0, [0.9], score=score)])
    assert [row.name for row in summary.rows] == order
    assert summary.rows[0].best == best


def test_minimized_target_is_met_from_above():
    score = {"metric": "loss", "direction": "min", "phase": "eval", "target": 0.1}
    [row] = summarise([run("a", 0, [0.5, 0.1, 0.05], score=score)]).rows
    assert row.steps_to_target == 20


def test_score_is_read_from_its_phase():
    [row] = summarise([run("a", 0, [0.5], score={**SCORE, "phase": "train"})]).rows
    assert row.mean == -1.0


def test_target_column_is_omitted_without_target():
    summary = summarise([run("a", 0, [0.5], score={**SCORE, "target": None})])
    assert summary.header() == ["method", "lr", "eval accuracy", "sd", "best", "CPU time", "diverged"]
    assert len(summary.cells(summary.rows[0])) == len(summary.header())


def test_unfinished_runs_have_their_own_column():
    summary = summarise([run("a", 0, [0.5]), run("a", 1, [0.9], status=None)])
    assert summary.header()[-2:] == ["diverged", "unfinished"]
    assert summary.cells(summary.rows[0])[-1] == "1"
    assert summary.rows[0].finals == (0.5,)
    assert "unfinished" in summary.text()


def test_text_and_markdown_have_the_same_cells():
    summary = summarise([run("adam", 0, [0.5]), run("sgd", 0, [0.25])])
    for row in summary.rows:
        for cell in summary.cells(row):
            assert cell in summary.text()
            assert cell in summary.markdown()


def test_text_table_columns_are_aligned():
    lines = text_table(["name", "x"], [["a", "1"], ["long name", "22.5"]]).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert markdown_table(["a|b"], [["c"]]).splitlines()[0] == "| a\\|b |"


def test_score_text_follows_the_published_style():
    assert score_text({"loss": 1.788, "accuracy": 1.0}) == "1.000 (1.788)"
    assert score_text({"loss": 13181.007, "accuracy": 0.1}) == ".100 (1.32e+04)"
    assert score_text({"loss": 1e-9}) == "1e-09"


def test_nonfinite_final_scores_have_no_deviation():
    [row] = summarise([run("a", 0, [math.inf]), run("a", 1, [math.inf])]).rows
    assert (row.mean, row.sd) == (math.inf, None)
