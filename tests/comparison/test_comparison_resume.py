"""Resume of a study: an interrupted run gives the same results as an uninterrupted one."""

from __future__ import annotations

import itertools
import json
import os
import random

import numpy as np
import pytest
import torch
from slow_values import others_slow
from study_support import Killed, diverging, finished, numbers, study, toy

from dashpot.comparison import Interrupted, Study, StudyProgress, read_run, run_study
from dashpot.errors import RunError
from dashpot.utils.rng_state import seed_all

STEPS = 12


class KillAt(StudyProgress):
    """Progress report that kills the study after a total number of steps."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def step(self, steps_done: int, worker: int = 0) -> None:
        self.left -= 1
        if self.left == 0:
            raise Killed


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Return the results of the uninterrupted study of Adam."""
    return numbers(finished(tmp_path_factory.mktemp("whole")))


@pytest.fixture(scope="module")
def scheduled(tmp_path_factory):
    """Return the results of the uninterrupted study of Adam with a schedule."""
    return numbers(finished(tmp_path_factory.mktemp("scheduled"), "adam", schedule="cosine"))


EACH_STEP = others_slow(range(1, STEPS + 1), 1, 6, STEPS)


@pytest.mark.parametrize("steps", EACH_STEP)
def test_kill_after_any_step_resumes_to_identical_results(tmp_path, scheduled, steps):
    with pytest.raises(Killed):
        run_study(study("adam", schedule="cosine"), tmp_path, progress=KillAt(steps))
    assert numbers(finished(tmp_path, "adam", schedule="cosine")) == scheduled


@pytest.mark.parametrize("seeds", [(0,), pytest.param((0, 1), marks=pytest.mark.slow)])
def test_study_killed_repeatedly_completes_with_identical_results(tmp_path, seeds):
    names = ("sgd", "adam")
    whole = numbers(finished(tmp_path / "whole", *names, seeds=seeds))
    for kills in itertools.count():
        try:
            # Runs are evaluated after each step, so each attempt of five steps records at least four of them.
            runs = run_study(study(*names, seeds=seeds), tmp_path / "out", progress=KillAt(5))
            break
        except Killed:
            assert kills < STEPS * 2 * len(seeds)
    assert kills > 3
    assert numbers(runs) == whole


@pytest.mark.parametrize("cut", [1, pytest.param(40, marks=pytest.mark.slow), 200])
def test_partial_line_is_rewritten_on_resume(tmp_path, whole, cut):
    with pytest.raises(Killed):
        run_study(study(), tmp_path / "out", progress=KillAt(6))
    record = tmp_path / "out" / "runs" / "adam-seed0.jsonl"
    with record.open("ab") as stream:
        stream.write(b'{"kind":"steps","first":5,"loss":[0.1,0.2,' + b"0.5," * cut)
    assert len(read_run(record).loss) == 5
    assert numbers(finished(tmp_path / "out")) == whole


def test_run_without_checkpoint_restarts(tmp_path, whole):
    with pytest.raises(Killed):
        run_study(study(), tmp_path / "out", progress=KillAt(6))
    (tmp_path / "out" / "runs" / "adam-seed0.ckpt").unlink()
    assert numbers(finished(tmp_path / "out")) == whole


def test_finished_runs_are_unchanged_and_have_no_checkpoint(tmp_path):
    finished(tmp_path / "out", "sgd", "adam", epochs=1)
    runs = tmp_path / "out" / "runs"
    before = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in runs.iterdir()}
    assert sorted(before) == ["adam-seed0.jsonl", "sgd-seed0.jsonl"]
    finished(tmp_path / "out", "sgd", "adam", epochs=1)
    assert {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in runs.iterdir()} == before


def test_partial_files_of_a_killed_comparison_are_removed(tmp_path):
    with pytest.raises(Killed):
        run_study(study(), tmp_path / "out", progress=KillAt(6))
    for name in ("study.json", "report.html", "runs/adam-seed0.jsonl", "runs/adam-seed0.ckpt"):
        path = tmp_path / "out" / name
        partial = path.with_name(f".{path.name}.0123456789abcdef.part")
        partial.write_bytes(b"{")
        os.utime(partial, (0, 0))
    running = tmp_path / "out" / "runs" / ".sgd-seed0.jsonl.fedcba9876543210.part"
    running.write_bytes(b"{")  # another process may be writing it
    finished(tmp_path / "out")
    assert list((tmp_path / "out").rglob("*.part")) == [running]


def test_record_has_a_resumed_line(tmp_path):
    with pytest.raises(Killed):
        run_study(study(), tmp_path / "out", progress=KillAt(6))
    finished(tmp_path / "out")
    lines = (tmp_path / "out" / "runs" / "adam-seed0.jsonl").read_text().splitlines()
    kinds = [json.loads(line)["kind"] for line in lines]
    interval = ["steps", "epoch"]
    assert kinds == ["header", "initial", *5 * interval, "resumed", *7 * interval, "end"]


def test_record_shorter_than_its_checkpoint_is_rejected(tmp_path):
    with pytest.raises(Killed):
        run_study(study(), tmp_path / "out", progress=KillAt(6))
    record = tmp_path / "out" / "runs" / "adam-seed0.jsonl"
    os.truncate(record, record.stat().st_size - 1)
    with pytest.raises(
        RunError, match=r"adam-seed0\.jsonl is damaged: it is shorter than when the checkpoint was written"
    ):
        finished(tmp_path / "out")


def test_diverged_run_is_final_and_other_runs_continue(tmp_path):
    mixed = Study(toy(), (diverging(), *study("adam").entries), (0, 1), 1)
    runs = run_study(mixed, tmp_path / "out")
    assert [(run.entry, run.seed, run.status) for run in runs] == [
        ("too-fast", 0, "diverged"),
        ("too-fast", 1, "diverged"),
        ("adam", 0, "done"),
        ("adam", 1, "done"),
    ]
    assert runs[0].end is not None
    assert runs[0].end["step"] == len(runs[0].loss) - 1
    assert repr(numbers(run_study(mixed, tmp_path / "out"))) == repr(numbers(runs))  # NaN != NaN
    assert not list((tmp_path / "out" / "runs").glob("*.ckpt"))


def test_interrupt_message_lists_saved_runs_and_command(tmp_path):
    class StopAt(KillAt):
        def step(self, steps_done, worker=0):
            self.left -= 1
            if self.left == 0:
                raise Interrupted

    with pytest.raises(Interrupted) as stop:
        run_study(study("sgd", "adam"), tmp_path / "out", progress=StopAt(STEPS + 9), command="dashpot compare toy")
    message = str(stop.value)
    assert "has 1 of 2 runs, and adam seed 0 up to step 8 of 12. " in message
    assert message.endswith("Resume with: dashpot compare toy")


def draw_numbers():
    return torch.rand(3).tolist(), random.random(), np.random.rand()


def test_run_study_restores_global_rng_state(tmp_path):
    seed_all(3)
    expected = draw_numbers()
    seed_all(3)
    finished(tmp_path / "out", epochs=1)
    assert draw_numbers() == expected
    seed_all(3)
    with pytest.raises(Killed):
        run_study(study("sgd", epochs=1), tmp_path / "killed", progress=KillAt(3))
    finished(tmp_path / "killed", "sgd", epochs=1)
    assert draw_numbers() == expected


def test_python_and_numpy_random_states_resume(tmp_path):
    def build(seed):
        problem = toy().build(seed)
        plain = problem.loss
        problem.loss = lambda output, y: plain(output, y) * (1 + random.random() + np.random.rand())
        return problem

    def drawing():
        return Study(toy(build=build), study().entries, (0,), 2)

    whole = numbers(run_study(drawing(), tmp_path / "whole"))
    with pytest.raises(Killed):
        run_study(drawing(), tmp_path / "out", progress=KillAt(6))
    assert numbers(run_study(drawing(), tmp_path / "out")) == whole


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 and no more", None])
def test_unreadable_checkpoint_error_names_file_and_remedy(tmp_path, content):
    with pytest.raises(Killed):
        run_study(study(), tmp_path / "out", progress=KillAt(6))
    path = tmp_path / "out" / "runs" / "adam-seed0.ckpt"
    if content is None:  # written by an older version
        torch.save({"model": {}, "progress": {"epochs": 1, "bytes": 10}}, path)
    else:
        path.write_bytes(content)
    with pytest.raises(RunError, match=r"adam-seed0\.ckpt .*Delete it to restart the run"):
        finished(tmp_path / "out")


def test_full_disk_error_keeps_finished_epochs(tmp_path, monkeypatch, whole):
    real, count = os.fsync, itertools.count(1)

    def full(descriptor):
        if next(count) > 40:  # enough for study.json, the items in the journal, and some evaluations
            raise OSError(28, "No space left on device")
        real(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(RunError, match=r"No space left on device; .+ are kept"):
            finished(tmp_path / "out")
    kept = read_run(tmp_path / "out" / "runs" / "adam-seed0.jsonl")
    assert len(kept.epochs) >= 1
    assert numbers(finished(tmp_path / "out")) == whole
