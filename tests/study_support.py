"""Toy task with dropout, batch norm, shuffling and a shorter last batch, and studies of it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from dashpot.comparison import Entry, Run, Study, entry, run_study
from dashpot.data import Batches
from dashpot.tasks import Problem, Target, Task, accuracy

TIMES = ("cpu_s", "wall_s", "memory_bytes")
"""Recorded values that differ between runs."""


class Killed(BaseException):
    """Exception that simulates a killed process by ending the loop without cleanup."""


@contextmanager
def killed_at(module: Any, name: str, nth: int) -> Iterator[None]:
    """Expect the block to be killed before the n-th call of a function in a module."""
    real, calls = getattr(module, name), itertools.count(1)

    def failing(*args: Any) -> Any:
        if next(calls) == nth:
            raise Killed
        return real(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, name, failing)
        with pytest.raises(Killed):
            yield


def build(seed: int) -> Problem:
    draw = torch.Generator().manual_seed(17)
    x = torch.randn(22, 5, generator=draw)
    y = (x[:, 0] + 0.3 * x[:, 1] > 0).long()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(0.25), nn.Linear(6, 2))
    return Problem(
        model=model,
        train=Batches(x, y, 6, shuffle=True, seed=seed),
        evaluation=Batches(x, y, 22),
        loss=nn.functional.cross_entropy,
        metrics={"accuracy": accuracy},
    )


def toy(**changes: Any) -> Task:
    """Return the toy task with `changes`: four steps per epoch, of 6, 6, 6 and 4 examples."""
    settings: dict[str, Any] = {
        "name": "toy",
        "build": build,
        "epochs": 3,
        "target": Target("accuracy", 0.8, "max"),
        "description": "two classes of points",
        "config": {"batch_size": 6},
    }
    return Task(**{**settings, **changes})


def study(*names: str, seeds: tuple[int, ...] = (0,), epochs: int = 3, schedule: str | None = None) -> Study:
    entries = tuple(entry(name, "toy", lr=0.05, schedule=schedule) for name in names or ("adam",))
    return Study(toy(), entries, seeds, epochs)


def diverging() -> Entry:
    """Return an entry that diverges."""
    return Entry("too-fast", torch.optim.SGD, 1e30)


def numbers(runs: list[Run]) -> list[Any]:
    """Return all recorded values except times and memory."""
    return [
        (
            run.entry,
            run.seed,
            run.loss,
            run.lr,
            [_without_times(epoch) for epoch in run.epochs],
            None if run.end is None else _without_times(run.end),
        )
        for run in runs
    ]


def _without_times(line: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in line.items() if key not in TIMES}


def finished(folder: Path, *names: str, **settings: Any) -> list[Run]:
    return run_study(study(*names, **settings), folder)
