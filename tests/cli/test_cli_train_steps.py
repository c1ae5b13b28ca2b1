"""`dashpot train` by steps: `--steps`, `--evaluate-every`, `--max-time`, and data without a length."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli_support import WORDS, interrupt_at, kill_at, refused, same_weights

from dashpot.comparison import read_run
from dashpot.runs.settings import read_settings
from dashpot.training.callbacks import time_limit

STEPS = ("--steps", 7, "--evaluate-every", 2)

UNSIZED = """
import dataclasses

class Unsized:
    def __init__(self, stream):
        self.epoch = stream.epoch

def unsized():
    def problem(seed):
        made = task.build(seed)
        return dataclasses.replace(made, train=Unsized(made.train))
    task = build()
    return dataclasses.replace(task, build=problem)
"""


@pytest.fixture
def unsized_task(my_task) -> str:
    """Task whose training data have no length."""
    path = Path(my_task.partition(":")[0])
    path.write_text(path.read_text() + UNSIZED)
    return f"{path}:unsized"


@pytest.fixture
def clock(monkeypatch):
    """Return a function that sets the seconds of every later step and of every later end of an epoch."""
    seconds = [0.0, 0.0]  # now, and the time of a step
    is_exceeded = time_limit.TimeLimit._is_exceeded

    def step(self, learner):
        seconds[0] += seconds[1]
        return is_exceeded(self, learner)

    monkeypatch.setattr(time_limit.time, "monotonic", lambda: seconds[0])
    monkeypatch.setattr(time_limit.TimeLimit, "_is_exceeded", step)
    return lambda value: seconds.__setitem__(1, value)


def record(folder):
    """Return the values of the steps and epochs in a record, and its end."""
    run = read_run(Path(folder, "run.jsonl"))
    epochs = [{name: value for name, value in epoch.items() if not name.endswith("_s")} for epoch in run.epochs]
    return run.loss, run.lr, epochs, run.end


@pytest.mark.parametrize(
    ("task", "at"),
    [
        pytest.param("my_task", 4, marks=pytest.mark.slow),
        ("unsized_task", 3),
        pytest.param("my_task", 3, marks=pytest.mark.slow),
        pytest.param("unsized_task", 4, marks=pytest.mark.slow),
    ],
)
def test_killed_run_by_steps_resumes_bit_identically(dashpot, request, monkeypatch, task, at):
    words = (request.getfixturevalue(task), *WORDS, *STEPS, "--accumulate", 2, "--ema", 0.9, "--schedule", "1cycle")
    words += ("--checkpoint-every", 1, "--log", "csv")
    code, out, _ = dashpot("train", *words, "--out", "uninterrupted")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines() if line.strip()[:1].isdigit()] == ["2", "4", "6", "7"]
    assert " after 7 steps, " in out
    with monkeypatch.context() as patch:
        kill_at(patch, at)
        with pytest.raises(MemoryError):
            dashpot("train", *words, "--out", "interrupted")
    code, out, _ = dashpot("train", "--resume", "interrupted")
    assert code == 0
    assert f"Resuming interrupted after {at - 1} steps." in out
    assert same_weights("uninterrupted", "interrupted")
    assert record("uninterrupted") == record("interrupted")
    assert [epoch["steps"] for epoch in record("interrupted")[2]] == [2, 4, 6, 7]
    rows = [
        [line.split(",")[:-1] for line in Path(name, "log.csv").read_text().splitlines()]  # all columns except the time
        for name in ("uninterrupted", "interrupted")
    ]
    assert rows[0] == rows[1]
    assert [row[:2] for row in rows[0]] == [["epoch", "step"], ["1", "2"], ["2", "4"], ["3", "6"], ["4", "7"]]


def test_interrupted_run_by_steps_resumes_bit_identically(dashpot, my_task, monkeypatch):
    dashpot("train", my_task, *WORDS, *STEPS, "--out", "uninterrupted")
    with monkeypatch.context() as patch:
        interrupt_at(patch, 5)
        assert dashpot("train", my_task, *WORDS, *STEPS, "--out", "interrupted")[0] == 130
    assert "after 5 steps." in dashpot("train", "--resume", "interrupted")[1]
    assert same_weights("uninterrupted", "interrupted")
    assert record("uninterrupted") == record("interrupted")


def test_finished_run_resumes_with_more_steps(dashpot, my_task):
    dashpot("train", my_task, *WORDS, *STEPS, "--out", "short")
    dashpot("train", my_task, *WORDS, "--steps", 10, "--evaluate-every", 2, "--out", "long")
    assert "steps: saved 7, given 10" in refused_in("short", dashpot("train", "--resume", "short", "--steps", 10))
    assert dashpot("train", "--resume", "short", "--steps", 10, "--override")[0] == 0
    assert same_weights("short", "long")
    assert [epoch["steps"] for epoch in record("short")[2]] == [2, 4, 6, 7, 9, 10]


def refused_in(folder, result):
    code, _, err = result
    assert code == 2
    assert Path(folder, "run.toml").exists()
    return err


def test_time_limit_ends_the_run_and_a_higher_limit_continues_it(dashpot, my_task, clock):
    dashpot("train", my_task, *WORDS, "--epochs", 3, "--out", "uninterrupted")
    clock(60.0)
    code, out, _ = dashpot("train", my_task, *WORDS, "--epochs", 3, "--max-time", "4m30s", "--out", "limited")
    assert code == 0
    assert "Stopped early: the time limit of 4 min 30 s is reached." in out
    end = record("limited")[3]
    assert (end["status"], end["steps"], end["reason"]) == ("done", 4, "the time limit of 4 min 30 s is reached")
    assert [epoch["steps"] for epoch in record("limited")[2]] == [3, 4]
    assert read_settings(Path("limited/run.toml"))["max_time"] == 270.0
    assert "nothing to resume" in dashpot("train", "--resume", "limited")[1]
    assert dashpot("train", "--resume", "limited", "--max-time", "1h", "--override")[0] == 0
    assert same_weights("uninterrupted", "limited")
    assert record("uninterrupted") == record("limited")


def test_data_without_a_length(dashpot, unsized_task):
    error = refused(dashpot("train", unsized_task, *WORDS, "--epochs", 2, "--schedule", "cosine"))
    assert error.startswith("train: steps must be given with schedule=cosine, because the training data of")
    error = refused(dashpot("train", unsized_task, *WORDS, "--epochs", 2, "--evaluate-every", 2))
    assert error.startswith("train: steps must be given with evaluate_every=2, because the training data of")
    assert dashpot("train", unsized_task, *WORDS, "--epochs", 2, "--out", "a")[0] == 0
    header = json.loads(Path("a/run.jsonl").read_text().splitlines()[0])
    assert (header["epochs"], header["steps_per_epoch"]) == (2, None)
    assert [epoch["steps"] for epoch in record("a")[2]] == [3, 6]
    error = refused_in("a", dashpot("compare", "--task", unsized_task, "--methods", "adamw,sgd", "--epochs", 1))
    assert "must have a length" in error


def test_command_line_length_replaces_that_of_the_file(dashpot, my_task):
    dashpot("train", my_task, *WORDS, "--epochs", 1, "--out", "a")
    assert dashpot("train", "--config", "a/run.toml", "--steps", 2, "--out", "b")[0] == 0
    assert dashpot("train", "--config", "b/run.toml", "--epochs", 1, "--out", "c")[0] == 0
    lengths = [[read_settings(Path(name, "run.toml")).get(key) for key in ("epochs", "steps")] for name in "abc"]
    assert lengths == [[1, None], [None, 2], [1, None]]


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (("--steps", 2, "--epochs", 1), "train: give either epochs or steps, got epochs=1 and steps=2."),
        (("--steps", 0), "train: steps must be None or an integer in [1, inf), got 0."),
        (("--max-time", "1 hour"), "max-time: must be a number of seconds or a duration such as 90s, 30m, 2h or 1h30m"),
        (("--max-time", 0), "train: max_time must be None or a number in (0, inf), got 0.0."),
    ],
)
def test_invalid_lengths_raise(dashpot, my_task, words, error):
    assert error in refused(dashpot("train", my_task, *WORDS, *words))
