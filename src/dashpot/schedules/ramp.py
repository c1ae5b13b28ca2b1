"""Schedules over a given number of steps (linear, polynomial, cosine), and the exponential warm-up."""

from __future__ import annotations

import math
from dataclasses import MISSING, dataclass

from dashpot.constraints import Interval, OneOf, field
from dashpot.schedules import ease
from dashpot.schedules.ranges import FACTOR, FRACTION, POLE, STEPS
from dashpot.schedules.schedule import Schedule


@dataclass(frozen=True)
class Linear(Schedule):
    """F = start + (end - start) min(1, s / steps).

    Args:
        start: Initial factor, in [0, inf).
        end: Final factor, in [0, inf).
        steps: Length of the ramp in steps.

    Source: torch.optim.lr_scheduler.LinearLR.

    >>> Linear(start=1.0, end=0.0, steps=4).table(6)
    [1.0, 0.75, 0.5, 0.25, 0.0, 0.0]
    """

    start: float = field(MISSING, Interval(0, math.inf, "left"))
    end: float = field(MISSING, Interval(0, math.inf, "left"))
    steps: int = field(MISSING, STEPS)

    def _at(self, step: int) -> float:
        return ease.linear(self.start, self.end, min(step, self.steps) / self.steps)


@dataclass(frozen=True)
class LinearWarmup(Schedule):
    """F = start + (1 - start) min(1, s / steps): linear warm-up to the base value.

    Args:
        steps: Length of the warm-up in steps.
        start: In [0, 1]: factor at the first step. If it is 0, the first step does not change the weights.

    Source: Goyal et al., "Accurate, Large Minibatch SGD", 2017.

    >>> LinearWarmup(steps=4, start=0.2).table(6)
    [0.2, 0.4, 0.6, 0.8, 1.0, 1.0]
    """

    steps: int = field(MISSING, STEPS)
    start: float = field(0.01, FRACTION)

    def _at(self, step: int) -> float:
        return ease.linear(self.start, 1.0, min(step, self.steps) / self.steps)


@dataclass(frozen=True)
class ExponentialWarmup(Schedule):
    """F = 1 - rho^(s + 1), rho in [0, 1): warm-up that reaches 95 % after about 3 / (1 - rho) steps.

    Source: ESGD-M.

    >>> [round(ExponentialWarmup(rho=0.99)(step), 3) for step in (0, 99, 299)]
    [0.01, 0.634, 0.951]
    """

    rho: float = field(0.99, POLE)

    def _at(self, step: int) -> float:
        return 1 - self.rho ** (step + 1)


@dataclass(frozen=True)
class Polynomial(Schedule):
    """F = floor + (1 - floor) (1 - min(1, s / steps))^power.

    Args:
        steps: Length of the decay in steps.
        power: Exponent > 0; 1 gives a linear decay.
        floor: In [0, 1]: final factor.

    Source: torch.optim.lr_scheduler.PolynomialLR.

    >>> Polynomial(steps=4, power=2).table(6)
    [1.0, 0.5625, 0.25, 0.0625, 0.0, 0.0]
    """

    steps: int = field(MISSING, STEPS)
    power: float = field(1.0, FACTOR)
    floor: float = field(0.0, FRACTION)

    def _at(self, step: int) -> float:
        return ease.linear(self.floor, 1.0, (1 - min(step, self.steps) / self.steps) ** self.power)


@dataclass(frozen=True)
class Cosine(Schedule):
    """F = floor + (1 - floor) (1 + cos(pi s / steps)) / 2: cosine annealing to the floor.

    Args:
        steps: Number of steps until the floor is reached.
        floor: Smallest factor, in [0, 1].
        after: Behaviour after reaching the floor. "hold": the factor remains at the floor; "rise": the factor follows
            the cosine with period 2 `steps`, as in torch.optim.lr_scheduler.CosineAnnealingLR. For jumps back to 1, use
            `CosineRestarts`.

    Source: Loshchilov and Hutter, "SGDR", 2017.

    >>> [round(factor, 3) for factor in Cosine(steps=4).table(7)]
    [1.0, 0.854, 0.5, 0.146, 0.0, 0.0, 0.0]
    >>> [round(factor, 3) for factor in Cosine(steps=4, after="rise").table(7)]
    [1.0, 0.854, 0.5, 0.146, 0.0, 0.146, 0.5]
    """

    steps: int = field(MISSING, STEPS)
    floor: float = field(0.0, FRACTION)
    after: str = field("hold", OneOf(("hold", "rise")))

    def _at(self, step: int) -> float:
        place = min(step, self.steps) if self.after == "hold" else step % (2 * self.steps)
        return ease.cosine(1.0, self.floor, place / self.steps)


@dataclass(frozen=True)
class CosineRestarts(Schedule):
    """Cosine annealing with restarts, where cycle i = 0, 1, ... has first * mult^i steps.

    Args:
        first: Number of steps of the first cycle.
        mult: Integer >= 1: ratio of the lengths of successive cycles. With 1, the schedule equals
            `Window("raised-cosine", first)`.
        floor: In [0, 1]: lower limit of the factor; each cycle ends one step before reaching it.

    Source: torch.optim.lr_scheduler.CosineAnnealingWarmRestarts.

    >>> [round(factor, 3) for factor in CosineRestarts(first=2, mult=2).table(7)]
    [1.0, 0.5, 1.0, 0.854, 0.5, 0.146, 1.0]
    """

    first: int = field(MISSING, STEPS)
    mult: int = field(1, STEPS)
    floor: float = field(0.0, FRACTION)

    def _at(self, step: int) -> float:
        length = self.first
        if self.mult == 1:
            step %= length
        while step >= length:
            step -= length
            length *= self.mult
        return ease.cosine(1.0, self.floor, step / length)
