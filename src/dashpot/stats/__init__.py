"""Statistics of comparisons: intervals, tests, survival curves, verdicts and power, on plain arrays."""

from dashpot.stats.interval import Interval

__all__ = ["Interval"]
