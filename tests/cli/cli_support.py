"""What the tests of the command line look for, and how they stop a run."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import torch

from dashpot.training import Learner
from dashpot.training.callbacks.checkpoints import read_newest

WORDS = ("--optimizer", "adamw", "--lr", 0.1, "--threads", 1)
"""A quick run of the fixture `my_task`."""


def refused(result: tuple[int, str, str]) -> str:
    """The one sentence of a refused command, which wrote nothing."""
    code, _, err = result
    assert code == 2
    assert "Traceback" not in err
    assert len(err.strip().splitlines()) == 1
    assert not Path("runs").exists()
    return err.strip()


def final(folder: str | Path) -> dict[str, torch.Tensor]:
    """The weights a run ended with."""
    return read_newest(Path(folder, "checkpoints"))["model"]


def same(a: str | Path, b: str | Path) -> bool:
    """Whether two runs ended with the same weights, bit for bit."""
    one, other = final(a), final(b)
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def stop_at(monkeypatch, steps: int) -> None:
    """Let a run get Ctrl-C in the middle of its step of that number."""
    step = Learner.step

    def interrupted(self):
        if self.steps + 1 == steps:
            os.kill(os.getpid(), signal.SIGINT)
        step(self)

    monkeypatch.setattr(Learner, "step", interrupted)


def contents(folder: str | Path) -> dict[str, bytes]:
    """Every file in a folder."""
    return {str(path): path.read_bytes() for path in sorted(Path(folder).rglob("*")) if path.is_file()}
