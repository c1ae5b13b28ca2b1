"""Infinite sums of the factors of a schedule, and of their squares."""

from __future__ import annotations

import math

from dashpot.analysis.schedule_tails import tail_of, transient
from dashpot.schedules import Constant, Exponential, InverseTime, Product, Schedule, Sequence, StepDecay

_MOST_TERMS = 1_000_000


def sum_of_powers(schedule: Schedule, power: int) -> float | None:
    """Return the sum of F^power over all steps for power 1 or 2; None if it is finite but has no known value.

    >>> from dashpot.schedules import StepDecay
    >>> sum_of_powers(StepDecay(0.5, every=10), 1), sum_of_powers(InverseTime(1.0), 1)
    (20.0, inf)
    """
    tail = tail_of(schedule)
    if tail is None:
        return None
    if tail.zero:
        return 0.0
    if tail.ends is not None:
        last = schedule(tail.ends)
        return _partial(schedule, power, tail.ends) if last == 0 else math.inf
    if tail.growth > 0 or (tail.growth == 0 and tail.power * power <= 1):
        return math.inf
    return _finite_sum(schedule, power, tail.growth)


def _finite_sum(schedule: Schedule, power: int, growth: float) -> float | None:
    if isinstance(schedule, Exponential):
        return 1 / (1 - schedule.factor**power)
    if isinstance(schedule, StepDecay):
        return schedule.every / (1 - schedule.factor**power)
    if isinstance(schedule, InverseTime):
        return (schedule.interval or 1) * _inverse_squares(schedule.rate)
    if isinstance(schedule, Sequence):
        rest = sum_of_powers(schedule.parts[-1], power)
        return None if rest is None else _partial(schedule, power, schedule.milestones[-1]) + rest
    if isinstance(schedule, Product):
        varying = [part for part in schedule.parts if not isinstance(part, Constant)]
        if len(varying) == 1:
            total = sum_of_powers(varying[0], power)
            scale = math.prod(part.factor for part in schedule.parts if isinstance(part, Constant))
            return None if total is None else total * scale**power
    terms = transient(schedule) + math.ceil(40 / -(growth * power)) if growth < 0 else _MOST_TERMS + 1
    return _partial(schedule, power, terms) if terms <= _MOST_TERMS else None  # exp(-40) is below 1 ulp


def _partial(schedule: Schedule, power: int, steps: int) -> float:
    return math.fsum(schedule(step) ** power for step in range(steps))


def _inverse_squares(rate: float) -> float:
    """Return the sum of 1/(1 + rate s)^2 over s = 0, 1, ..., by the Euler-Maclaurin formula.

    >>> round(_inverse_squares(1.0) - math.pi**2 / 6, 12)
    0.0
    """
    first = 20  # terms before the asymptotic expansion, whose error is below (rate/x)^9 < 20^-9
    x = 1 + rate * first
    rest = 1 / (rate * x) + 1 / (2 * x**2) + rate / (6 * x**3) - rate**3 / (30 * x**5) + rate**5 / (42 * x**7)
    return math.fsum(1 / (1 + rate * s) ** 2 for s in range(first)) + rest
