"""1cycle schedules of learning rate and momentum, and the triangular schedule."""

from __future__ import annotations

import math
from dataclasses import MISSING, dataclass
from itertools import pairwise

from dashpot.constraints import Interval, Optional, field
from dashpot.errors import ArgumentError
from dashpot.schedules.ease import EASES, linear
from dashpot.schedules.ranges import EASE, FACTOR, FLAG, FRACTION, POLE, STEPS
from dashpot.schedules.schedule import Schedule


@dataclass(frozen=True)
class OneCycle(Schedule):
    """1cycle policy relative to the peak: from 1/div up to 1, then down to 1/(div final_div).

    With N = steps and p = pct_start, the peak is at step i = p N - 1, between two steps unless p N is an integer. With
    three phases, the initial value is reached again at i = 2 p N - 2, before the last descent. After the last step the
    factor is constant, whereas torch's scheduler first increases the rate slightly and then raises an error.

    Args:
        steps: Total number of steps N.
        pct_start: In [0, 1]: fraction of the steps with a rising rate; at most 1/2 with `three_phase`.
        div: In [1, inf): ratio of the peak to the initial value.
        final_div: > 0: ratio of the initial value to the final value.
        anneal: Shape of the curve in each phase, "cosine" or "linear".
        three_phase: If True, descend to the initial value first and then to the final value.

    Source: Smith and Topin, "Super-Convergence", 2018; torch.optim.lr_scheduler.OneCycleLR with `max_lr` as the base
        value.

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
    """Momentum of the 1cycle policy, which falls from `high` to `low` while the learning rate rises, and then returns.

    The schedule is *absolute*: its values replace the momentum (the pole of the filter), regardless of the base value.

    Args:
        steps: Total number of steps. `OneCycle` and `OneCycleMomentum` must be given the same values of `steps`,
            `pct_start`, `anneal` and `three_phase`.
        high: In [0, 1): momentum at the start and at the end.
        low: In [0, 1), at most `high`: momentum at the peak of the learning rate.
        pct_start: See `OneCycle`.
        anneal: See `OneCycle`.
        three_phase: See `OneCycle`.

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
    """Triangular wave that rises from `floor` to 1, the maximum, and falls again.

    Args:
        up: Number of rising steps.
        down: Number of falling steps; None means `up`.
        floor: In [0, 1]: smallest factor.

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
    """Interpolate at `step` between `values`, the values at the ends of the phases; skip phases without steps."""
    up = cycle.pct_start * cycle.steps - 1
    last = cycle.steps - 1
    step = min(step, last)
    knots = (0, up, 2 * up, last) if cycle.three_phase else (0, up, last)
    for (left, right), (start, end) in zip(pairwise(knots), pairwise(values), strict=True):
        if step <= right and left < right:
            return EASES[cycle.anneal](start, end, (step - left) / (right - left))
    return values[-1]
