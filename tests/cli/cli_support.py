"""Helpers that run the command in tests, interrupt runs at a chosen step, and compare their results."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import torch

from dashpot.training import Learner
from dashpot.training.callbacks.checkpoints import read_newest
from dashpot.training.callbacks.run_log import RunLog

WORDS = ("--optimizer", "adamw", "--lr", 0.1, "--threads", 1)
"""Options for a fast run of the task in the fixture `my_task`, which has three steps per epoch."""

Command = Callable[..., tuple[int, str, str]]


def refused(result: tuple[int, str, str]) -> str:
    """Check that a command has failed with a one-line error, exit code 2 and no files; return the error."""
    code, _, err = result
    assert code == 2
    assert "Traceback" not in err
    assert len(err.strip().splitlines()) == 1
    assert not Path("runs").exists()
    return err.strip()


def final_weights(folder: str | Path) -> dict[str, torch.Tensor]:
    """Return the weights in the latest checkpoint of a run."""
    return read_newest(Path(folder, "checkpoints"))["model"]


def same_weights(a: str | Path, b: str | Path) -> bool:
    """Return whether the latest checkpoints of two runs have bit-identical weights."""
    one, other = final_weights(a), final_weights(b)
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def interrupt_at(monkeypatch, step: int) -> None:
    """Send SIGINT to each run during the given step; steps count from 1."""
    original = Learner.step

    def interrupting_step(self):
        if self.steps + 1 == step:
            os.kill(os.getpid(), signal.SIGINT)
        original(self)

    monkeypatch.setattr(Learner, "step", interrupting_step)


def kill_at(monkeypatch, steps: int) -> None:
    """Abort runs with an unhandled exception after a number of steps."""

    def die(self, learner):
        if learner.steps == steps:
            raise MemoryError("killed")

    monkeypatch.setattr(RunLog, "after_step", die, raising=False)


def complete_run(dashpot: Command, my_task: str, *options: object, out: str = "a") -> Path:
    """Run one epoch and return the folder of the run."""
    assert dashpot("train", my_task, *WORDS, "--epochs", 1, *options, "--out", out)[0] == 0
    return Path(out)


def interrupted_run(dashpot: Command, my_task: str, monkeypatch, step: int, *options: object, out: str = "a") -> Path:
    """Start a run of three epochs with three steps each, interrupt it during a step, and return its folder."""
    with monkeypatch.context() as patch:
        interrupt_at(patch, step)
        assert dashpot("train", my_task, *WORDS, "--epochs", 3, *options, "--out", out)[0] == 130
    return Path(out)


def contents(folder: str | Path) -> dict[str, bytes]:
    """Return the contents of all files in a folder."""
    return {str(path): path.read_bytes() for path in sorted(Path(folder).rglob("*")) if path.is_file()}


def remove_folder(folder: Path) -> None:
    shutil.rmtree(folder)
