"""What is compared: a method with a name, a learning rate and a schedule."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch.optim import Optimizer

from dashpot import methods, schedules
from dashpot.comparison.defaults import default_lr
from dashpot.constraints import ARGUMENTS, check, unknown
from dashpot.errors import ArgumentError

__all__ = ["RATE_SCHEDULES", "Entry", "entry", "known_entries"]

NUMERATORS = (0, 1, 2, 3, 4)

RATE_SCHEDULES = tuple(name for name in schedules.NAMES if name not in ("window", "1cycle-momentum"))
"""The schedules a name alone makes for the learning rate: a window needs a shape, the other is of the momentum."""


@dataclass(frozen=True)
class Entry:
    """One line of a comparison: how to make an optimizer, and what to call it.

    Args:
        name: letters, digits, `-`, `_` and `.`; it names the run's files and the line in every chart.
        make: an optimizer class or function, called as `make(params, lr=lr, **options)`.
        lr: base learning rate, at least 0.
        options: further keyword arguments of `make`.
        schedule: total number of steps -> value of the keyword argument `schedule`; None passes no such argument.

    Raises:
        ArgumentError: the name cannot name a file, or `lr` is out of range.

    >>> import torch
    >>> line = Entry("torch-adam", torch.optim.Adam, 1e-3, {"betas": (0.9, 0.99)})
    >>> line.call(steps=100)
    'torch.optim.Adam(model.parameters(), lr=0.001, betas=(0.9, 0.99))'
    """

    name: str
    make: Callable[..., Optimizer]
    lr: float
    options: Mapping[str, Any] = field(default_factory=dict)
    schedule: Callable[[int], Any] | None = None

    def __post_init__(self) -> None:
        if not self.name or not all(c.isalnum() or c in "-_." for c in self.name) or self.name[0] == ".":
            raise ArgumentError(f"Entry: name must be letters, digits, '-', '_' and '.', got {self.name!r}.")
        check(self.name, "lr", self.lr, ARGUMENTS["lr"])

    def arguments(self, steps: int) -> dict[str, Any]:
        """The keyword arguments of `make` for a run of `steps` steps."""
        scheduled = {} if self.schedule is None else {"schedule": self.schedule(steps)}
        return {"lr": self.lr, **self.options, **scheduled}

    def optimizer(self, params: Iterable[Any], steps: int) -> Optimizer:
        """A fresh optimizer over `params` for a run of `steps` steps."""
        return self.make(params, **self.arguments(steps))

    def call(self, steps: int) -> str:
        """The call that makes the optimizer, as one would type it."""
        arguments = "".join(f", {key}={value!r}" for key, value in self.arguments(steps).items())
        return f"{_origin(self.make)}.{self.make.__name__}(model.parameters(){arguments})"


def known_entries() -> tuple[str, ...]:
    """Names that `entry` accepts: every method, and AutoSGM with each of its numerators."""
    return (*methods.METHODS, *(f"autosgm-{index}" for index in NUMERATORS))


def entry(name: str, task: str, *, lr: float | None = None, schedule: str | None = None) -> Entry:
    """An entry by name, with the rate tuned for `task` unless `lr` is given.

    Args:
        name: a method of `dashpot methods`; `autosgm-K` is AutoSGM with numerator K in 0 to 4.
        task: name of the task; a task without tuned rates takes the generic ones.
        lr: base learning rate.
        schedule: a name of `dashpot.schedules.from_name`; None keeps the rate constant.

    Raises:
        ArgumentError: no such method or schedule, or `lr` is out of range.

    >>> entry("autosgm-3", "digits", lr=0.01).call(steps=100)
    'dashpot.AutoSGM(model.parameters(), lr=0.01, numerator=3)'
    """
    if name not in known_entries():
        raise unknown("method", name, known_entries())
    family, _, numerator = name.partition("-") if name.startswith("autosgm-") else (name, "", "")
    options = {"numerator": int(numerator)} if numerator else {}
    if schedule is not None and schedule not in RATE_SCHEDULES:
        raise unknown("schedule", schedule, RATE_SCHEDULES)
    return Entry(
        name,
        methods.get(family),
        default_lr(task, name) if lr is None else lr,
        options,
        None if schedule is None else lambda steps: schedules.from_name(schedule, steps),
    )


def _origin(make: Callable[..., Optimizer]) -> str:
    """The module to import `make` from: the package that re-exports it where there is one."""
    for package in ("dashpot", "torch.optim"):
        if getattr(sys.modules.get(package), make.__name__, None) is make:
            return package
    return make.__module__
