"""Schedules over a different number of steps: F'(s) = F(factor s)."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from dashpot.analysis.rounding import tidy
from dashpot.errors import ArgumentError
from dashpot.schedules import (
    Constant,
    Cosine,
    CosineRestarts,
    Cyclic,
    Exponential,
    ExponentialWarmup,
    InverseTime,
    Linear,
    LinearWarmup,
    MultiStep,
    OneCycle,
    OneCycleMomentum,
    OriginalWindow,
    Polynomial,
    Product,
    Schedule,
    Sequence,
    StepDecay,
    Window,
)


class Rescaled(NamedTuple):
    """A rescaled schedule, and the lengths that had to be rounded, such as "steps 62.5 to 62"."""

    schedule: Schedule
    rounded: tuple[str, ...]


def rescaled(schedule: Schedule, factor: float) -> Rescaled | None:
    """Return the schedule with all lengths divided by `factor`; None if a part is a user-defined schedule.

    >>> rescaled(LinearWarmup(steps=100), 16)
    Rescaled(schedule=LinearWarmup(steps=6, start=0.01), rounded=('steps 6.25 to 6',))
    """
    rounded: list[str] = []
    try:
        return Rescaled(_rescale(schedule, factor, rounded), tuple(dict.fromkeys(rounded)))
    except KeyError:
        return None


def faster_pole(pole: float, factor: float) -> float:
    """Return max(0, 1 - factor (1 - pole)), the pole whose memory of 1/(1 - pole) steps is shorter by `factor`.

    >>> faster_pole(0.9, 4), faster_pole(0.9, 16), faster_pole(0.0, 0.5)
    (0.6, 0.0, 0.0)
    """
    return tidy(max(0.0, 1 - factor * (1 - pole))) if pole > 0 else pole


def with_faster_poles(schedule: Schedule, factor: float) -> Schedule:
    """Return the schedule with the momenta of `OneCycleMomentum` converted by `faster_pole`."""
    if isinstance(schedule, OneCycleMomentum):
        poles = {name: faster_pole(getattr(schedule, name), factor) for name in ("high", "low")}
        return dataclasses.replace(schedule, **poles)
    if isinstance(schedule, (Product, Sequence)):
        parts = tuple(with_faster_poles(part, factor) for part in schedule.parts)
        return dataclasses.replace(schedule, parts=parts)
    return schedule


def _rescale(schedule: Schedule, factor: float, rounded: list[str]) -> Schedule:
    return _RESCALE[type(schedule)](schedule, factor, rounded)


def _length(name: str, steps: int, factor: float, rounded: list[str], lowest: int = 1) -> int:
    exact = steps / factor
    length = max(lowest, round(exact))
    if not math.isclose(length, exact, rel_tol=1e-12):
        rounded.append(f"{name} {exact:.6g} to {length}")
    return length


def _lengths(*names: str) -> Callable[[Any, float, list[str]], Schedule]:
    """Return a function that divides the named fields by a factor."""

    def rescale(schedule: Any, factor: float, rounded: list[str]) -> Schedule:
        given = {name: getattr(schedule, name) for name in names}
        new = {name: _length(name, steps, factor, rounded) for name, steps in given.items() if steps is not None}
        return dataclasses.replace(schedule, **new)

    return rescale


def _same(schedule: Constant, factor: float, rounded: list[str]) -> Schedule:
    del factor, rounded
    return schedule


def _inverse_time(schedule: InverseTime, factor: float, rounded: list[str]) -> Schedule:
    if schedule.interval is None:
        return InverseTime(tidy(schedule.rate * factor))
    return dataclasses.replace(schedule, interval=_length("interval", schedule.interval, factor, rounded))


def _exponential(schedule: Exponential, factor: float, rounded: list[str]) -> Schedule:
    del rounded
    try:
        return Exponential(tidy(schedule.factor**factor))
    except (OverflowError, ArgumentError):
        raise ArgumentError(f"scale_batch: {schedule!r} to the power {factor:g} is out of range.") from None


def _exponential_warmup(schedule: ExponentialWarmup, factor: float, rounded: list[str]) -> Schedule:
    del rounded
    return ExponentialWarmup(tidy(schedule.rho**factor))


def _milestones(values: tuple[int, ...], factor: float, rounded: list[str]) -> tuple[int, ...]:
    new = tuple(_length("milestone", value, factor, rounded) for value in values)
    if any(a >= b for a, b in itertools.pairwise(new)):
        raise ArgumentError(
            f"scale_batch: milestones must be distinct after division by {factor:g}, got {values} and then {new}."
        )
    return new


def _multi_step(schedule: MultiStep, factor: float, rounded: list[str]) -> Schedule:
    return dataclasses.replace(schedule, milestones=_milestones(schedule.milestones, factor, rounded))


def _window(schedule: Window, factor: float, rounded: list[str]) -> Schedule:
    if schedule.hold == 1:
        return dataclasses.replace(schedule, steps=_length("steps", schedule.steps, factor, rounded, lowest=2))
    hold = _length("hold", schedule.hold, factor, rounded)
    return dataclasses.replace(schedule, steps=schedule.steps // schedule.hold * hold, hold=hold)


def _sequence(schedule: Sequence, factor: float, rounded: list[str]) -> Schedule:
    parts = tuple(_rescale(part, factor, rounded) for part in schedule.parts)
    return Sequence(parts, _milestones(schedule.milestones, factor, rounded))


def _product(schedule: Product, factor: float, rounded: list[str]) -> Schedule:
    return Product(tuple(_rescale(part, factor, rounded) for part in schedule.parts))


_RESCALE: Mapping[type[Schedule], Callable[[Any, float, list[str]], Schedule]] = {
    Constant: _same,
    Cosine: _lengths("steps"),
    CosineRestarts: _lengths("first"),
    Cyclic: _lengths("up", "down"),
    Exponential: _exponential,
    ExponentialWarmup: _exponential_warmup,
    InverseTime: _inverse_time,
    Linear: _lengths("steps"),
    LinearWarmup: _lengths("steps"),
    MultiStep: _multi_step,
    OneCycle: _lengths("steps"),
    OneCycleMomentum: _lengths("steps"),
    OriginalWindow: _window,
    Polynomial: _lengths("steps"),
    Product: _product,
    Sequence: _sequence,
    StepDecay: _lengths("every"),
    Window: _window,
}
