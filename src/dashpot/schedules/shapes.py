"""Half-window shapes W(u), which fall from 1 at u = 0 to 0 at u = 1 (except `flat`, which is 1).

Each entry of `SHAPES` contains the function W, the allowed orders, the default order and, for a shape whose repeats are
not a staircase of copies, the function that computes the repeats. All formulas avoid overflow and cancellation for all
allowed orders. Source: AutoSGM, README, except that the late logistic is normalized by its own end values.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from dashpot.constraints import Interval

LATE = 7 / 8
"""Inflection point of the late logistic; the mid logistic has its inflection point at 1/2."""


def flat(u: float, order: float) -> float:
    """W = 1."""
    return 1.0


def raised_cosine(u: float, order: float) -> float:
    """W = cos(pi u / 2)^order, evaluated as a sine to be exactly 0 at u = 1; order 2 gives the usual cosine decay."""
    return math.sin(math.pi * (1 - u) / 2) ** order


def polynomial(u: float, order: float) -> float:
    """W = (1 - u)^order; order 1 is linear."""
    return (1 - u) ** order


def exponential(u: float, order: float) -> float:
    """W = (n^u - n) / (1 - n) with order 0 < n < 1: an exponential decay shifted to end at 0."""
    return order**u * _fall(u, -math.log(order))


def simple_polynomial(u: float, order: float) -> float:
    """W = (1 - u^order)^2."""
    return (1 - u**order) ** 2


def mid_logistic(u: float, order: float, repeats: int = 1) -> float:
    """W = (A(u) - A(1)) / (A(0) - A(1)) with A(u) = sum_k L(u; (k + 1/2) / repeats), k < repeats.

    L has slope repeats * order. Since L(u; c) - L(1; c) = (1 - 2^(2 n (u - 1))) L(u; c) (1 - L(1; c)), the first
    factor is common to all terms.
    """
    slope = order * repeats
    centres = [(k + 0.5) / repeats for k in range(repeats)]
    weights = [1 - logistic(1.0, slope, c) for c in centres]

    def total(at: float) -> float:
        return sum(w * logistic(at, slope, c) for w, c in zip(weights, centres, strict=True))

    return _fall(u, _rate(slope)) * total(u) / total(0.0)


def late_logistic(u: float, order: float) -> float:
    """W = (L(u; 7/8) - L(1; 7/8)) / (L(0; 7/8) - L(1; 7/8))."""
    return _fall(u, _rate(order)) * logistic(u, order, LATE) / logistic(0.0, order, LATE)


def logistic(u: float, order: float, centre: float) -> float:
    """L(u; c) = 1 / (1 + 2^(2 order (u - c))), a decreasing function of u that is 1/2 at its inflection point c."""
    exponent = 2 * order * (u - centre)
    small = 2.0 ** -abs(exponent)
    return small / (1 + small) if exponent > 0 else 1 / (1 + small)


def _rate(order: float) -> float:
    return 2 * math.log(2) * order


def _fall(u: float, rate: float) -> float:
    """Factor (1 - exp(-rate (1 - u))) / (1 - exp(-rate)) that makes an exponential or a logistic fall to 0 at u = 1."""
    return math.expm1(-rate * (1 - u)) / math.expm1(-rate)


@dataclass(frozen=True)
class Shape:
    """A half-window shape; `orders` is the allowed range of the order, or None if the shape has no order."""

    height: Callable[[float, float], float]
    orders: Interval | None
    order: float | None
    stack: Callable[[float, float, int], float] | None = None


SHAPES: Mapping[str, Shape] = {
    "flat": Shape(flat, None, None),
    "raised-cosine": Shape(raised_cosine, Interval(1, math.inf, "left"), 2),
    "polynomial": Shape(polynomial, Interval(0, math.inf), 1),
    "exponential": Shape(exponential, Interval(0, 1), 0.5),
    "simple-polynomial": Shape(simple_polynomial, Interval(1, math.inf, "left"), 2),
    "logistic": Shape(mid_logistic, Interval(0, math.inf), 4, stack=mid_logistic),
    "late-logistic": Shape(late_logistic, Interval(0, math.inf), 4),
}
"""Shapes by name, in the order of AutoSGM's rcm = 0 to 6."""


def stacked(shape: str, u: float, order: float | None, repeats: int = 1) -> float:
    """Return W(u) of a staircase of M = `repeats` copies; copy j falls from (M - j + 1) / M to (M - j) / M.

    >>> [round(stacked("raised-cosine", u, 2, repeats=3), 3) for u in (0, 1 / 6, 1 / 3, 0.5, 2 / 3, 1)]
    [1.0, 0.833, 0.667, 0.5, 0.333, 0.0]
    """
    kind = SHAPES[shape]
    power = 0.0 if order is None else order
    return kind.stack(u, power, repeats) if kind.stack else staircase(lambda v: kind.height(v, power), u, repeats)


def staircase(height: Callable[[float], float], u: float, repeats: int) -> float:
    """Return (M - j + W(M u - j + 1)) / M with j = max(1, ceil(M u)): M copies of W as a staircase."""
    stair = max(1, math.ceil(repeats * u))
    return (repeats - stair + height(repeats * u - stair + 1)) / repeats
