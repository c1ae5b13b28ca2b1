"""Schedules that go up and down: 1cycle for the rate and for the momentum, and the triangle."""

from __future__ import annotations

import math
from dataclasses import MISSING, dataclass
from itertools import pairwise

from dashpot.constraints import Interval, Optional, field
from dashpot.errors import ArgumentError
from dashpot.schedules.ease import EASES, linear
from dashpot.schedules.ranges import EASE, FACTOR, FLAG, FRACTION, POLE, STEPS
from dashpot.schedules.schedule import Schedule

__all__ = ["Cyclic", "OneCycle", "OneCycleMomentum"]


@dataclass(frozen=True)
class OneCycle(Schedule):
    """Up from peak / div to the peak, then down to peak / (div final_div), within `steps` steps. A factor of the peak.

    With N = steps, p = pct_start and steps i = 0 .. N - 1 the peak lies at i = p N - 1, between two steps unless p N is
    an integer. In three phases the start value is met again at i = 2 p N - 2 before the last descent. After the last
    step the final value stays, where torch rises slightly and then raises an error.

    Args:
        Arguments: Steps: total number of steps N. pct_start: in [0, 1], the fraction of the steps going up; at most 1/2
            with three phases. div: in [1, inf), peak over start. final_div: > 0, start over final value. anneal:
            "cosine" or "linear", the curve of each phase. three_phase: whether the way down stops over at the start
            value.

    Source: Smith and Topin, "Super-Convergence", 2018; torch.optim.lr_scheduler.OneCycleLR with `max_lr` as base value.

    >>> [round(factor, 4) for factor in OneCycle(steps=10).table(12)]
    [0.04, 0.52, 1.0, 0.9505, 0.8117, 0.6113, 0.3887, 0.1883, 0.0495, 0.0, 0.0, 0.0]
    """

    steps: int = field(MISSING, STEPS)
    pct_start: float = field(0.3, FRACTION)
    div: float = field(25.0, Interval(1, math.inf, "left"))
    final_div: float = field(1e4, FACTOR)
    anneal: str = field("cosine", EASE)
    three_phase: bool = field(False, FLAG)

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_phases(self)

    def _at(self, step: int) -> float:
        start = 1 / self.div
        middle = (start,) if self.three_phase else ()
        return _through(self, (start, 1.0, *middle, start / self.final_div), step)


@dataclass(frozen=True)
class OneCycleMomentum(Schedule):
    """The momentum that goes with `OneCycle`: down from `high` to `low` while the rate goes up, then back, then level.

    It is *absolute*: its values replace the momentum (the pole of the gradient filter), whatever the base value.

    Args:
        Arguments: Steps, pct_start, anneal, three_phase: as in `OneCycle`; they should be equal to its own. high, low:
            in [0, 1), low <= high.

    Source: torch.optim.lr_scheduler.OneCycleLR (`max_momentum`, `base_momentum`).

    >>> [round(value, 3) for value in OneCycleMomentum(steps=10).table(12)]
    [0.95, 0.9, 0.85, 0.855, 0.869, 0.889, 0.911, 0.931, 0.945, 0.95, 0.95, 0.95]
    """

    steps: int = field(MISSING, STEPS)
    high: float = field(0.95, POLE)
    low: float = field(0.85, POLE)
    pct_start: float = field(0.3, FRACTION)
    anneal: str = field("cosine", EASE)
    three_phase: bool = field(False, FLAG)

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_phases(self)
        if self.low > self.high:
            raise ArgumentError(f"OneCycleMomentum: low must be at most high, {self.high!r}, got {self.low!r}.")

    @property
    def absolute(self) -> bool:
        """True: the values are momenta, not factors."""
        return True

    def _at(self, step: int) -> float:
        end = (self.high,) if self.three_phase else ()
        return _through(self, (self.high, self.low, self.high, *end), step)


@dataclass(frozen=True)
class Cyclic(Schedule):
    """A triangle for ever: from the floor to 1 in `up` steps and back in `down` steps (None: as many as up).

    The base value is the top; `floor` in [0, 1] is the bottom as a factor of it.
    Source: Smith, "Cyclical Learning Rates", 2017; torch.optim.lr_scheduler.CyclicLR in its mode "triangular".

    >>> Cyclic(up=2, down=4, floor=0.5).table(8)
    [0.5, 0.75, 1.0, 0.875, 0.75, 0.625, 0.5, 0.75]
    """

    up: int = field(MISSING, STEPS)
    down: int | None = field(None, Optional(STEPS))
    floor: float = field(0.0, FRACTION)

    def _at(self, step: int) -> float:
        down = self.up if self.down is None else self.down
        place = step % (self.up + down)
        rising = place < self.up
        return linear(self.floor, 1.0, place / self.up if rising else 1 - (place - self.up) / down)


def _check_phases(cycle: OneCycle | OneCycleMomentum) -> None:
    if cycle.three_phase and cycle.pct_start > 0.5:
        owner = type(cycle).__name__
        raise ArgumentError(
            f"{owner}: pct_start must be a number in [0, 0.5] with three phases, got {cycle.pct_start!r}."
        )


def _through(cycle: OneCycle | OneCycleMomentum, values: tuple[float, ...], step: int) -> float:
    """The curve through `values` at the knots of the cycle, level after the last; a phase that is over is skipped."""
    up = cycle.pct_start * cycle.steps - 1
    last = cycle.steps - 1
    step = min(step, last)
    knots = (0, up, 2 * up, last) if cycle.three_phase else (0, up, last)
    for (left, right), (start, end) in zip(pairwise(knots), pairwise(values), strict=True):
        if step <= right and left < right:
            return EASES[cycle.anneal](start, end, (step - left) / (right - left))
    return values[-1]
