"""Estimates with confidence intervals."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Interval:
    """An estimate with a confidence interval.

    Args:
        estimate: Point estimate.
        low: Lower limit; -inf if unbounded.
        high: Upper limit; inf if unbounded.
        level: Confidence level in (0, 1).
        method: Name of the method, such as "Student t" or "BCa", for reports.

    >>> Interval(0.5, 0.2, 0.8).excludes(0.0), Interval(0.5, 0.2, 0.8).inside(-1.0, 1.0)
    (True, True)
    """

    estimate: float
    low: float
    high: float
    level: float = 0.95
    method: str = ""

    def excludes(self, value: float) -> bool:
        """Return whether `value` is outside the interval."""
        return value < self.low or value > self.high

    def inside(self, low: float, high: float) -> bool:
        """Return whether the interval lies within [low, high]."""
        return low <= self.low and self.high <= high


def reverse(interval: Interval) -> Interval:
    """Return the interval of the negative of an estimate.

    >>> reverse(Interval(0.5, 0.2, 0.8))
    Interval(estimate=-0.5, low=-0.8, high=-0.2, level=0.95, method='')
    """
    return Interval(-interval.estimate, -interval.high, -interval.low, interval.level, interval.method)
