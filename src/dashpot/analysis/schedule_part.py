"""Explanation of a schedule: its values, their sums, and the Robbins-Monro conditions."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

from torch.optim.lr_scheduler import LRScheduler

from dashpot.analysis.explanation import Detail, Part
from dashpot.analysis.result import Quantity
from dashpot.analysis.schedule_tails import tail_of
from dashpot.analysis.step_conditions import robbins_monro
from dashpot.analysis.travel import rates, reach
from dashpot.analysis.wording import count, number
from dashpot.constraints import POSITIVE, check
from dashpot.schedules.notebook import span

_LENGTH = 1000  # of a torch scheduler without an end or a period


def schedule_part(name: str, schedule: Any, steps: int | None, lr: float) -> Part:
    """Return the explanation of a schedule over a number of steps.

    Args:
        name: Subject of the first sentence.
        schedule: A dashpot schedule or a torch scheduler.
        steps: Number of steps; None for the number that shows the shape of the schedule.
        lr: Base learning rate, > 0, that the factors multiply.
    """
    check("explain", "lr", lr, POSITIVE)
    is_torch = isinstance(schedule, LRScheduler)
    length = steps or (_torch_length(schedule) if is_torch else span(schedule))
    values = rates(schedule, length, lr)
    said: list[str] = [course(name, values)]
    details: list[Detail] = []
    if is_torch or not schedule.absolute:
        details, words = _sums(schedule, length, lr)
        said += words
    return Part(
        label="",
        subject=type(schedule).__name__ if is_torch else repr(schedule),
        sentences=tuple(said),
        notes=(),
        numbers=tuple(_values(values)),
        details=tuple(details),
        heading="Values",
        data={"scheduler": type(schedule).__name__} if is_torch else schedule.to_dict(),
    )


def _torch_length(scheduler: LRScheduler) -> int:
    """Return the steps until the end or through one period of a torch scheduler; 1000 if it has neither."""
    tail = tail_of(scheduler)
    return (tail and (tail.ends or tail.period)) or _LENGTH


def course(name: str, values: list[float]) -> str:
    """Return a sentence on the first, extreme and last values of a schedule."""
    over = f"over {count(len(values), 'step', digits=3)}"
    ends = values[0], values[-1]
    if min(values) == max(values):
        return f"{name} stays at {number(values[0])}."
    extremes = [("highest", max(values)), ("lowest", min(values))]
    inner = sorted((values.index(value), kind, value) for kind, value in extremes if value not in ends)
    steps = [b - a for a, b in pairwise(values)]
    if not inner and min(steps) < 0 < max(steps):
        return f"{name} varies between {number(min(values))} and {number(max(values))} {over}."
    if not inner:
        verb = "falls" if ends[0] > ends[1] else "rises"
        return f"{name} {verb} from {number(ends[0])} to {number(ends[1])} {over}."
    peaks = "".join(
        f", is {kind}, {number(value)}, after {count(place, 'step', digits=3)}" for place, kind, value in inner
    )
    return f"{name} starts at {number(ends[0])}{peaks}, and ends at {number(ends[1])} {over}."


def _sums(schedule: Any, steps: int, lr: float) -> tuple[list[Detail], list[str]]:
    total = reach(schedule, steps, lr)
    conditions = robbins_monro(schedule, lr)
    verdict = conditions.summary().partition(";")[0].rstrip(".")  # the sums after the semicolon are those of `total`
    details = [Detail("Reach", total, 2), Detail("Robbins-Monro conditions", conditions, 1)]
    return details, [total.summary(), f"{verdict}."]


def _values(values: list[float]) -> list[Quantity]:
    rows = [
        ("steps", len(values), "number of steps"),
        ("first", values[0], "value at the first step"),
        ("highest", max(values), "highest value"),
        ("last", values[-1], "value at the last step"),
        ("mean", math.fsum(values) / len(values), "mean value"),
    ]
    return [Quantity(*row) for row in rows]
