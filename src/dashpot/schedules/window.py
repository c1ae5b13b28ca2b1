"""Windows: a shape stretched over a number of steps and repeated for ever."""

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

__all__ = ["Window"]


@dataclass(frozen=True)
class Window(Schedule):
    """A half window falls from 1 towards `floor`; a full window rises from `floor` to 1 and falls again. Both repeat.

    With W the shape on [0, 1], T = steps / hold values in a window, and i = floor(step / hold) mod T:

        f = i / T                       full window: f = |2 i / T - 1|
        F = 1                           where f < flat_top
        F = floor + (1 - floor) W(u)    elsewhere, u = (f - flat_top) / (1 - flat_top)

    The first value of a half window is 1. The last one is short of the floor, which would be reached at i = T. The
    first value of a full window is exactly the floor, so with `floor=0` the first step does nothing.

    Args:
        Arguments: Shape: "flat", "raised-cosine", "polynomial", "exponential", "simple-polynomial", "logistic" or
            "late-logistic". steps: length of one window in steps, at least 2 `hold`. Windows per epoch: the steps of
            one epoch. order: the number that bends the shape; its range and default depend on the shape (see
            `shapes.SHAPES`). floor: in [0, 1], the value the window falls to. half: a half window, or a full one.
            flat_top: in [0, 1), the fraction of the (half) window during which the factor stays 1. repeats: number M of
            copies of the shape on M stairs within one window, at least 1. hold: steps during which one value is held;
            divides `steps`. The steps of an epoch make a window that changes between epochs only. sequence: "uniform";
            "kronecker" samples the shape at irregular golden-ratio points in falling order; "kronecker-unsorted" takes
            these points in their own order. Flat-top values stay at the top of the window.

    Raises `ArgumentError` for a value out of range. Source: the README of AutoSGM (`rc_cfg`).

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
            raise ArgumentError(
                f"Window: order must be None, the {self.shape} shape has none, got {shown(self.order)}."
            )
        else:
            check(f"Window of shape {self.shape!r}", "order", self.order, kind.orders)
        if self.steps % self.hold or self.steps < 2 * self.hold:
            raise ArgumentError(
                f"Window: steps must be a multiple of hold and at least twice as large, "
                f"got steps={self.steps}, hold={self.hold}."
            )

    @staticmethod
    def from_rc_cfg(rc_cfg: Sequence[Any], quirks: Iterable[str] = ()) -> Schedule:
        """The schedule that AutoSGM's tuple (rcm, inseq, x, n, m, tau, spe, cfact, e) means.

        rcm 0 to 6 is the shape, inseq 1 the Kronecker sequence, x the floor, n the order, m 1 a half and 0 a full
        window, tau the epochs, spe the steps of an epoch, e the flat top. cfact is the unit: 0 a window of tau epochs
        held during each epoch, 1 the same changing with every step, 2 a window of one epoch, M >= 3 as 1 with M repeats
        (the polynomial, rcm 2, keeps one). rcm 0 is `Constant()`.

        `quirks` are names of deviations of the original to keep: see `dashpot.schedules.quirks`.

        Raises `ArgumentError` for a tuple of another length, a slot out of range, or an unknown quirk.

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
        """How far down the shape `step` is, from 0 to 1; None on the flat top."""
        values = self.steps // self.hold
        i = step // self.hold % values
        return self._uniform(i / values) if self.sequence == "uniform" else self._kronecker(i, values)

    def _uniform(self, f: float) -> float | None:
        if not self.half:
            f = abs(2 * f - 1)
        return None if f < self.flat_top else (f - self.flat_top) / (1 - self.flat_top)

    def _kronecker(self, i: int, values: int) -> float | None:
        """A side is `top` ones, then `count` points going down; a full window is that side mirrored, then as it is."""
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
