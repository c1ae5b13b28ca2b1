"""Runs from Python: the record in every case, random numbers left alone, and the lock."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch

from dashpot.comparison import read_run
from dashpot.errors import ArgumentError, RunError
from dashpot.runs.lock import locked
from dashpot.training import Learner
from dashpot.training.run.folder import RunFolder
from dashpot.training.run.run import lr_range_test, resume, start
from dashpot.training.run.settings import Settings

TASK = """
import torch
from torch import nn
from dashpot.data import Batches
from dashpot.tasks import Problem, Task, accuracy

def build():
    def problem(seed):
        draw = torch.Generator().manual_seed(seed)
        x, y = torch.randn(26, 4, generator=draw), torch.randint(0, 3, (26,), generator=draw)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(0.2), nn.Linear(8, 3))
        train = Batches(x, y, 4, shuffle=True, seed=seed)
        return Problem(model, train, nn.functional.cross_entropy, Batches(x, y, 26), {"accuracy": accuracy})
    return Task("small", problem, epochs=3)
"""


@pytest.fixture
def settings(tmp_path) -> Settings:
    path = tmp_path / "small.py"
    path.write_text(TASK)
    return Settings(task=f"{path}:build", optimizer="adamw", lr=0.05, threads=1, accelerator="cpu")


def quiet(_: str) -> None:
    """Says nothing."""


def test_a_run_leaves_random_states_and_threads_as_they_were(settings, tmp_path):
    torch.manual_seed(3)
    random.seed(3)
    np.random.seed(3)
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist(), torch.get_num_threads()
    start(settings, tmp_path / "run", write_line=quiet)
    after = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist(), torch.get_num_threads()
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]


def test_the_seed_alone_decides(settings, tmp_path):
    losses = []
    for name, state in (("a", 1), ("b", 2)):
        torch.manual_seed(state)
        losses.append(start(settings, tmp_path / name, write_line=quiet).run.loss)
    assert losses[0] == losses[1]


def test_the_record_holds_the_mean_loss_of_each_steps_examples(settings, tmp_path, monkeypatch):
    """Of windows of 4 batches of 4, 4, 4, 4 and 4, 4, 2 examples, to the rounding of the mean."""
    import dataclasses

    seen = []
    after = Learner.backward

    def backward(self):
        seen.append((self.batch.loss.item(), self.batch.size))
        after(self)

    monkeypatch.setattr(Learner, "backward", backward)
    changed = dataclasses.replace(settings, accumulate=4, epochs=2)
    run = start(changed, tmp_path / "run", write_line=quiet).run
    windows = [seen[0:4], seen[4:7], seen[7:11], seen[11:14]]
    wanted = [sum(loss * size for loss, size in window) / sum(size for _, size in window) for window in windows]
    assert run.loss == pytest.approx(wanted, rel=1e-14)
    assert run.header["steps_per_epoch"] == 2
    assert [epoch["steps"] for epoch in run.epochs] == [2, 4]
    assert run.lr == [0.05] * 4


def test_ctrl_c_while_it_evaluates_stops_after_that_with_a_checkpoint(settings, tmp_path, monkeypatch):
    from dashpot.comparison import Interrupted
    from dashpot.training.callbacks.checkpoints import read_newest

    whole = start(settings, tmp_path / "whole", write_line=quiet).run
    get_loss = Learner.get_loss

    def interrupted(self):
        if not self.training and self.epoch == 1:
            os.kill(os.getpid(), signal.SIGINT)
        get_loss(self)

    with monkeypatch.context() as patch:
        patch.setattr(Learner, "get_loss", interrupted)
        with pytest.raises(Interrupted, match="Resume with: dashpot train --resume"):
            start(settings, tmp_path / "run", write_line=quiet)
    assert read_newest(tmp_path / "run" / "checkpoints")["progress"]["position"] == [2, 0]
    run = resume(tmp_path / "run", write_line=quiet).run
    assert (run.loss, run.epochs[-1]["eval"]) == (whole.loss, whole.epochs[-1]["eval"])


def test_a_run_can_be_stopped_and_continued_at_every_step(settings, tmp_path, monkeypatch):
    from dashpot.comparison import Interrupted

    whole = start(settings, tmp_path / "whole", write_line=quiet).run
    step = Learner.step
    told = []

    def interrupted(self):
        if self.steps not in told and self.steps % 4 == 1:
            told.append(self.steps)
            os.kill(os.getpid(), signal.SIGINT)
        step(self)

    monkeypatch.setattr(Learner, "step", interrupted)
    with pytest.raises(Interrupted):
        start(settings, tmp_path / "run", write_line=quiet)
    for _ in range(4):
        with pytest.raises(Interrupted):
            resume(tmp_path / "run", write_line=quiet)
    run = resume(tmp_path / "run", write_line=quiet).run
    assert told == [1, 5, 9, 13, 17]
    assert (run.status, run.loss, run.lr) == ("done", whole.loss, whole.lr)
    assert [epoch["eval"] for epoch in run.epochs] == [epoch["eval"] for epoch in whole.epochs]
    kinds = [line.split('"')[3] for line in (tmp_path / "run" / "run.jsonl").read_text().splitlines()]
    assert kinds.count("header") == kinds.count("end") == 1


def test_a_record_that_ends_before_its_checkpoint_is_told(settings, tmp_path):
    start(settings, tmp_path / "run", write_line=quiet)
    record = tmp_path / "run" / "run.jsonl"
    record.write_text(record.read_text().splitlines(keepends=True)[0])
    with pytest.raises(RunError, match="shorter than its checkpoint expects"):
        resume(tmp_path / "run", write_line=quiet)


def test_finding_a_rate_writes_nothing_and_gives_a_curve(settings, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    curve = lr_range_test(settings)
    assert curve.lrs[0] < curve.lrs[-1]
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ".pyc" and path.name != "__pycache__"] == [
        "small.py"
    ]


def test_numbered_folders_are_made_once_each(settings, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = [RunFolder.create(None, settings, command=None).path.name for _ in range(3)]
    assert made == ["small-adamw-seed0", "small-adamw-seed0-2", "small-adamw-seed0-3"]


HOLD = """
import fcntl, os, sys, time
fcntl.flock(os.open(sys.argv[1], os.O_RDONLY), fcntl.LOCK_EX)
print("mine", flush=True)
time.sleep(60)
"""


@pytest.mark.needs_posix
def test_a_lock_is_of_processes_and_goes_with_them(tmp_path):
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "mine\n"
        with pytest.raises(RunError, match="Another process is using"), locked(tmp_path):
            pass
        other.kill()
        other.wait()
        with locked(tmp_path), pytest.raises(RunError, match="Another process"), locked(tmp_path):
            pass
    with locked(tmp_path):
        pass
    with pytest.raises(RunError, match="Cannot open"), locked(tmp_path / "gone"):
        pass


def test_a_bad_setting_is_found_before_anything_is_written(settings, tmp_path):
    import dataclasses

    for change in ({"set": {"beta": 1}}, {"set": {"betas": (0.9,)}}, {"schedule": "cosin"}, {"optimizer": "adamm"}):
        with pytest.raises(ArgumentError):
            start(dataclasses.replace(settings, **change), tmp_path / "run", write_line=quiet)
    assert not (tmp_path / "run").exists()


def test_a_run_of_another_tool_is_no_run(tmp_path):
    (tmp_path / "run.jsonl").write_text("{}\n")
    with pytest.raises(RunError, match=r"no run.toml"):
        resume(tmp_path, write_line=quiet)
    with pytest.raises(RunError, match="damaged"):
        read_run(tmp_path / "run.jsonl")
