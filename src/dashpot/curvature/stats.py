"""Cost of Hessian-vector products: counts and share of the time."""

from __future__ import annotations

import time
from collections import deque
from statistics import median
from typing import NamedTuple

_REMEMBERED = 256


class CurvatureStats(NamedTuple):
    """Cost of an optimizer's Hessian-vector products.

    Attributes:
        route: Route of the last product; None before the first product.
        reason: Reason for the route; None before the first product.
        products: Number of products that updated the curvature estimate, including those from before a resume.
        skipped: Number of products that were skipped because they were not finite, including those from before a
            resume.
        with_product: Median duration in seconds of steps with a product, measured between the ends of successive steps
            and thus including data loading and evaluation; None before the first such step in this process.
        without: Median duration in seconds of steps without a product, measured in the same way.
        share: Fraction of the time spent on products; None unless both medians are known.
    """

    route: str | None
    reason: str | None
    products: int
    skipped: int
    with_product: float | None
    without: float | None
    share: float | None


class StepTimer:
    """Timer between steps; medians exclude pauses for evaluations and checkpoints."""

    def __init__(self) -> None:
        self._last: float | None = None
        self._times = {True: deque(maxlen=_REMEMBERED), False: deque(maxlen=_REMEMBERED)}
        self._counts = {True: 0, False: 0}

    def lap(self, product: bool) -> None:
        """Record the end of a step, with or without a product."""
        now = time.perf_counter()
        if self._last is not None:
            self._times[product].append(now - self._last)
            self._counts[product] += 1
        self._last = now

    def medians(self) -> tuple[float | None, float | None]:
        """Return the median durations in seconds of steps with and without a product; None if unknown."""
        with_product, without = (median(self._times[kind]) if self._times[kind] else None for kind in (True, False))
        return with_product, without

    def share(self) -> float | None:
        """Return the fraction of the time spent on products, or None if unknown."""
        with_product, without = self.medians()
        if with_product is None or without is None:
            return None
        extra = self._counts[True] * max(with_product - without, 0.0)
        return extra / (extra + without * (self._counts[True] + self._counts[False]))
