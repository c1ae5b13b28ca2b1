"""Constant and decaying schedules without a final step: inverse time, steps, exponential."""

from __future__ import annotations

import bisect
import math
from dataclasses import MISSING, dataclass

from dashpot.constraints import Interval, Optional, field
from dashpot.errors import ArgumentError
from dashpot.schedules.ranges import FACTOR, STEPS, Increasing
from dashpot.schedules.schedule import Schedule


@dataclass(frozen=True)
class Constant(Schedule):
    """Constant factor F = factor, in [0, inf).

    Source: torch.optim.lr_scheduler.ConstantLR; use `Sequence` to limit its duration.

    >>> Constant().table(3)
    [1.0, 1.0, 1.0]
    """

    factor: float = field(1.0, Interval(0, math.inf, "left"))

    def _at(self, step: int) -> float:
        return self.factor


@dataclass(frozen=True)
class InverseTime(Schedule):
    """F = 1 / (1 + rate s), or the staircase F = 1 / (1 + rate floor(s / interval)).

    Args:
        rate: Decay rate in [0, inf), per step or, if `interval` is given, per interval.
        interval: Number of steps between changes; None changes the factor at every step.

    F is relative to the *initial* value of the hyperparameter, not to the current value.

    Source: Robbins and Monro, "A Stochastic Approximation Method", 1951.

    >>> InverseTime(rate=1.0).table(4), InverseTime(rate=1.0, interval=2).table(4)
    ([1.0, 0.5, 0.3333333333333333, 0.25], [1.0, 1.0, 0.5, 0.5])
    """

    rate: float = field(MISSING, Interval(0, math.inf, "left"))
    interval: int | None = field(None, Optional(STEPS))

    def _at(self, step: int) -> float:
        return 1 / (1 + self.rate * (step if self.interval is None else step // self.interval))


@dataclass(frozen=True)
class StepDecay(Schedule):
    """F = factor^floor(s / every): multiplication by `factor` > 0 after every `every` steps.

    Source: torch.optim.lr_scheduler.StepLR.

    >>> StepDecay(factor=0.5, every=2).table(5)
    [1.0, 1.0, 0.5, 0.5, 0.25]
    """

    factor: float = field(MISSING, FACTOR)
    every: int = field(MISSING, STEPS)

    def _at(self, step: int) -> float:
        return _power(self, self.factor, step // self.every)


@dataclass(frozen=True)
class MultiStep(Schedule):
    """F = factor^m with m the number of milestones <= s: multiplication by `factor` > 0 at each milestone.

    Args:
        milestones: Steps at which the factor changes; positive and increasing.
        factor: Multiplier at each milestone, > 0.

    Source: torch.optim.lr_scheduler.MultiStepLR.

    >>> MultiStep(milestones=(2, 3), factor=0.1).table(5)
    [1.0, 1.0, 0.1, 0.010000000000000002, 0.010000000000000002]
    """

    milestones: tuple[int, ...] = field(MISSING, Increasing())
    factor: float = field(0.1, FACTOR)

    def _at(self, step: int) -> float:
        return _power(self, self.factor, bisect.bisect_right(self.milestones, step))


@dataclass(frozen=True)
class Exponential(Schedule):
    """F = factor^s, which grows for factors above 1, as in a learning-rate range test.

    Raises:
        ArgumentError: If the factor at a step overflows.

    Source: torch.optim.lr_scheduler.ExponentialLR.

    >>> Exponential(0.5).table(4)
    [1.0, 0.5, 0.25, 0.125]
    """

    factor: float = field(MISSING, FACTOR)

    def _at(self, step: int) -> float:
        return _power(self, self.factor, step)


def _power(schedule: Schedule, factor: float, times: int) -> float:
    try:
        return float(factor) ** times
    except OverflowError:
        raise ArgumentError(f"{schedule!r}: {factor!r} to the power {times} overflows.") from None
