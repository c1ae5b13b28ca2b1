"""Evaluation of an optimizer's schedules at a step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dashpot.constraints import NONNEGATIVE, Interval, Scalar, check, shown
from dashpot.errors import ArgumentError
from dashpot.schedules.schedule import Schedule


def lr_in_force(schedule: Schedule | None, lr: Scalar, step: int) -> tuple[float, Scalar]:
    """Return the factor and the base learning rate at `step`.

    The values of an absolute schedule replace the base learning rate; the factor is then 1.
    """
    if schedule is None:
        return 1.0, lr
    if schedule.absolute:
        return 1.0, schedule(step)
    factor = schedule(step)
    check(type(schedule).__name__, "the factor on lr", factor, Interval() if schedule.signed else NONNEGATIVE)
    return factor, lr


def schedules_by_name(owner: str, schedule: Any) -> dict[str, Schedule]:
    """Normalize `schedule` to a mapping from setting names to schedules; a single schedule applies to lr."""
    items = {"lr": schedule} if isinstance(schedule, Schedule) else {} if schedule is None else schedule
    if not isinstance(items, Mapping) or not all(isinstance(item, Schedule) for item in items.values()):
        raise ArgumentError(
            f"{owner}: schedule must be None, a Schedule or a mapping of names to Schedules, got {shown(schedule)}."
        )
    return dict(items)
