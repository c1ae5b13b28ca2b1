"""What Hessian-vector products cost: counts, and their share of the time."""

from __future__ import annotations

import time
from collections import deque
from statistics import median
from typing import NamedTuple

__all__ = ["CurvatureStats", "StepTimer"]

_REMEMBERED = 256


class CurvatureStats(NamedTuple):
    """What an optimizer's products cost so far.

    `route` is how the last product was taken and `reason` why so (None before the first). `products` counts those that
    were taken in, `skipped` those that were not finite and left the curvature as it was; both go on in a resumed run.
    `with_product` and `without` are median seconds from the end of one step to the end of the next, data and evaluation
    included, for steps with and without a product; `share` is the part of the time that products cost. The three are
    None until there were such steps in this process.
    """

    route: str | None
    reason: str | None
    products: int
    skipped: int
    with_product: float | None
    without: float | None
    share: float | None


class StepTimer:
    """Times from step to step. Medians, so that a pause for an evaluation or a checkpoint counts for nothing."""

    def __init__(self) -> None:
        self._last: float | None = None
        self._times = {True: deque(maxlen=_REMEMBERED), False: deque(maxlen=_REMEMBERED)}
        self._counts = {True: 0, False: 0}

    def lap(self, product: bool) -> None:
        """A step has ended; `product` tells whether it had one."""
        now = time.perf_counter()
        if self._last is not None:
            self._times[product].append(now - self._last)
            self._counts[product] += 1
        self._last = now

    def medians(self) -> tuple[float | None, float | None]:
        """(with a product, without), in seconds."""
        with_product, without = (median(self._times[kind]) if self._times[kind] else None for kind in (True, False))
        return with_product, without

    def share(self) -> float | None:
        """The part of all time that products cost; None before there is something to compare."""
        with_product, without = self.medians()
        if with_product is None or without is None:
            return None
        extra = self._counts[True] * max(with_product - without, 0.0)
        return extra / (extra + without * (self._counts[True] + self._counts[False]))
