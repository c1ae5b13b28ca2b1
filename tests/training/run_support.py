"""Small task, and runs of it that are interrupted at a chosen step."""

from __future__ import annotations

import os
import signal

import pytest

from dashpot.comparison import Interrupted
from dashpot.training import Learner
from dashpot.training.run.run import start

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
"""Task file, for three epochs of seven steps each: six batches of 4 examples and one of 2."""


def quiet(_: str) -> None:
    """Discard a line of output."""


def contents(folder) -> dict[str, bytes]:
    """Return the contents of all files in a folder."""
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def at_step(monkeypatch, number: int, action) -> None:
    """Call `action` within a step; steps count from 0."""
    step = Learner.step

    def patched(self):
        if self.steps == number:
            action()
        step(self)

    monkeypatch.setattr(Learner, "step", patched)


def interrupted_start(settings, folder, monkeypatch, step: int, number: int = signal.SIGINT) -> Interrupted:
    """Start a run, send a signal within a step, and return the exception."""
    with monkeypatch.context() as patch:
        at_step(patch, step, lambda: os.kill(os.getpid(), number))
        with pytest.raises(Interrupted) as stop:
            start(settings, folder, write_line=quiet)
    return stop.value
