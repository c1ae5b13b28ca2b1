"""Periodic windows: a shape scaled to a number of steps."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import MISSING, dataclass
from typing import Any

from dashpot.constraints import Interval, OneOf, Optional, check, field, shown
from dashpot.errors import ArgumentError
from dashpot.schedules.kronecker import point, sorted_point
from dashpot.schedules.ranges import FLAG, FRACTION, STEPS
from dashpot.schedules.schedule import Schedule
from dashpot.schedules.shapes import SHAPES, stacked


@dataclass(frozen=True)
class Window(Schedule):
    """Periodic window: falls from 1 towards `floor` (half), or rises from `floor` to 1 and falls again (full).

    Let W be the shape on [0, 1], T = steps / hold the number of values in a window, and i = floor(step / hold) mod T:

        f = i / T                       full window: f = |2 i / T - 1|
        F = 1                           for f < flat_top
        F = floor + (1 - floor) W(u)    otherwise, u = (f - flat_top) / (1 - flat_top)

    A half window starts at 1 and ends one value before the floor, which would be reached at i = T. A full window starts
    exactly at the floor, so that with `floor=0` the first step does not change the weights.

    Args:
        shape: "flat", "raised-cosine", "polynomial", "exponential", "simple-polynomial", "logistic" or
            "late-logistic".
        steps: Length of a window in steps, at least 2 `hold`. For one window per epoch, pass the number of steps per
            epoch.
        order: Parameter of the shape. Its range and default depend on the shape (`shapes.SHAPES`).
        floor: In [0, 1]: lower end of the window.
        half: True for a half window, False for a full one.
        flat_top: In [0, 1): fraction of the (half) window with factor 1.
        repeats: Integer M >= 1: number of copies of the shape per window, arranged as a staircase.
        hold: Number of steps for which each value is held, a divisor of `steps`. If `hold` is the number of steps per
            epoch, the factor changes only between epochs.
        sequence: Points at which the shape is sampled. "uniform": equidistant points; "kronecker": golden-ratio points,
            sorted so that the factors descend; "kronecker-unsorted": golden-ratio points in the order of the sequence,
            with flat-top values at the top of the window.

    Raises:
        ArgumentError: If a value is out of range.

    Source: AutoSGM, README (`rc_cfg`).

    >>> [round(factor, 3) for factor in Window("raised-cosine", steps=4).table(6)]
    [1.0, 0.854, 0.5, 0.146, 1.0, 0.854]
    >>> Window("polynomial", steps=4, half=False, floor=0.5).table(6)
    [0.5, 0.75, 1.0, 0.75, 0.5, 0.75]
    """

    shape: str = field(MISSING, OneOf(tuple(SHAPES)))
    steps: int = field(MISSING, STEPS)
    order: float | None = field(None, Optional(Interval(0, math.inf)))
    floor: float = field(0.0, FRACTION)
    half: bool = field(True, FLAG)
    flat_top: float = field(0.0, Interval(0, 1, "left"))
    repeats: int = field(1, STEPS)
    hold: int = field(1, STEPS)
    sequence: str = field("uniform", OneOf(("uniform", "kronecker", "kronecker-unsorted")))

    def __post_init__(self) -> None:
        super().__post_init__()
        kind = SHAPES[self.shape]
        if self.order is None:
            object.__setattr__(self, "order", kind.order)
        elif kind.orders is None:
            raise ArgumentError(f"Window: order must be None for the {self.shape} shape, got {shown(self.order)}.")
        else:
            check(f"Window of shape {self.shape!r}", "order", self.order, kind.orders)
        if self.steps % self.hold or self.steps < 2 * self.hold:
            raise ArgumentError(
                f"Window: steps must be a multiple of hold and at least twice as large, "
                f"got steps={self.steps}, hold={self.hold}."
            )

    @staticmethod
    def from_rc_cfg(rc_cfg: Sequence[Any], quirks: Iterable[str] = ()) -> Schedule:
        """Convert AutoSGM's window tuple (rcm, inseq, x, n, m, tau, spe, cfact, e) to a schedule.

        rcm = 0 to 6 selects the shape, where 0 gives `Constant()`; inseq = 1 selects the Kronecker sequence. x is the
        floor and n is the order; m is 1 for a half window and 0 for a full window; tau is the number of epochs, spe is
        the number of steps per epoch, and e is the flat top. cfact selects the length of a window: with cfact = 0, a
        window covers tau epochs with one value per epoch; with 1, it covers tau epochs with one value per step; with 2,
        it covers one epoch. cfact = M >= 3 is equivalent to cfact = 1 with M repeats (except for the polynomial,
        rcm = 2).

        Args:
            rc_cfg: Tuple of 9 numbers.
            quirks: Names of deviations of the original implementation to reproduce (`dashpot.schedules.QUIRKS`).

        Raises:
            ArgumentError: If the tuple has a different length, an entry is out of range, or a quirk is unknown.

        >>> Window.from_rc_cfg((1, 0, 0.1, 2, 1, 3, 100, 1, 0)) == Window("raised-cosine", steps=300, floor=0.1)
        True
        """
        from dashpot.schedules.rc_cfg import from_rc_cfg

        return from_rc_cfg(rc_cfg, quirks)

    def _at(self, step: int) -> float:
        u = self._depth(step)
        return 1.0 if u is None else self.floor + (1 - self.floor) * self._height(u)

    def _height(self, u: float) -> float:
        return stacked(self.shape, u, self.order, self.repeats)

    def _depth(self, step: int) -> float | None:
        """Return the argument u in [0, 1] of the shape at `step`, or None on the flat top."""
        values = self.steps // self.hold
        i = step // self.hold % values
        return self._uniform(i / values) if self.sequence == "uniform" else self._kronecker(i, values)

    def _uniform(self, f: float) -> float | None:
        if not self.half:
            f = abs(2 * f - 1)
        return None if f < self.flat_top else (f - self.flat_top) / (1 - self.flat_top)

    def _kronecker(self, i: int, values: int) -> float | None:
        """Return u from the Kronecker sequence, or None for a value on the flat top.

        A half window has one side. A full window has two sides, and its first side is mirrored. Each side has `top`
        flat values and `count` points.
        """
        sides = 1 if self.half else 2
        top = math.floor(self.flat_top * values / sides)
        count = math.floor(values / sides - top)
        if sides * (count + top) < values:
            top += 1
        from_top = i if self.half else (i - (count + top) if i >= count + top else count + top - 1 - i)
        if from_top < top:
            return None
        k = from_top - top
        return sorted_point(k, count) if self.sequence == "kronecker" else point(k)
