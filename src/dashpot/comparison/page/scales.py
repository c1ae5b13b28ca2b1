"""Linear and logarithmic axes: positions, ticks, and limits that outliers do not stretch."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dashpot.comparison.page.number_text import bare
from dashpot.stats import Interval

Array = npt.NDArray[np.float64]

FENCE = 3.0
"""Distance from the quartiles, in units of the distance between them, beyond which a value is an outlier."""
REACH = 6.0
"""Largest distance of a shown estimate from the best one, in units of the differences between the leading methods."""
MARGIN = 0.04
"""Margin at both ends of an axis, as a share of its length."""
LOG_RATIO = 5.0
"""Ratio of the limits above which positive values have a logarithmic axis."""


@dataclass(frozen=True)
class Scale:
    """Axis from `low` at the position `start` to `high` at `end`.

    >>> Scale(1.0, 100.0, 0.0, 10.0, log=True).place(10.0)
    5.0
    """

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def place(self, value: float) -> float:
        """Return the position of a value, which can be outside of the axis."""
        if self.log:
            share = math.log(value / self.low) / math.log(self.high / self.low) if value > 0 else -math.inf
        else:
            share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start) if math.isfinite(share) else share * (self.end - self.start)

    def clamped(self, value: float) -> float:
        """Return the position of a value, or the nearest end of the axis."""
        low, high = sorted((self.start, self.end))
        return min(high, max(low, self.place(value)))

    def contains(self, value: float) -> bool:
        """Return whether a value is between the limits."""
        return self.low <= value <= self.high

    def ticks(self, most: int = 5) -> list[tuple[float, str]]:
        """Return at most about `most` round values between the limits, with labels.

        >>> Scale(0.0, 1200.0, 0, 1).ticks(4)
        [(0.0, '0'), (500.0, '500'), (1000.0, '1000')]
        >>> [label for _, label in Scale(0.3, 25.0, 0, 1, log=True).ticks()]
        ['.5', '1', '2', '5', '10', '20']
        """
        return _log_ticks(self.low, self.high, most) if self.log else _linear_ticks(self.low, self.high, most)


def _linear_ticks(low: float, high: float, most: int) -> list[tuple[float, str]]:
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    places = -math.floor(math.log10(step) + 1e-9)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    values = [index * step for index in range(first, last + 1)]
    return [(value, _label(value, places)) for value in values]


def _log_ticks(low: float, high: float, most: int) -> list[tuple[float, str]]:
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for marks in ((1, 2, 5), (1, 3), (1,)):
        values = [float(f"{mark}e{decade}") for decade in decades for mark in marks]
        inside = [value for value in values if low <= value <= high]
        if len(inside) <= most + 1:
            break
    else:
        inside = inside[:: -(-len(inside) // most)]
    if len(inside) < 2:
        return _linear_ticks(low, high, most)
    return [(value, bare(f"{value:g}")) for value in inside]


def _label(value: float, places: int) -> str:
    """Return the label of a tick at a multiple of 10 to the power of minus `places`.

    >>> _label(-0.002, 3), _label(0.0, 3), _label(2e7, -7), _label(12345678.0, 0), _label(5e-7, 7)
    ('−.002', '0', '2e+07', '12345678', '5e−07')
    """
    if value == 0:
        return "0"
    if abs(value) < 1e6 and places < 6:
        return bare(f"{value:.{max(0, places)}f}")
    return bare(f"{value:.{max(1, math.floor(math.log10(abs(value))) + places + 1)}g}")


def padded(low: float, high: float, *, log: bool = False) -> tuple[float, float]:
    """Return limits with a margin; equal limits are moved apart.

    >>> padded(1.0, 2.0), padded(0.0, 0.0), padded(1.0, 100.0, log=True)[1] > 100
    ((0.96, 2.04), (-1.0, 1.0), True)
    """
    if log:
        factor = (high / low) ** MARGIN if high > low else 2.0
        return low / factor, high * factor
    if not high > low:
        half = abs(low) * 0.01 or 1.0
        return low - half, high + half
    return low - MARGIN * (high - low), high + MARGIN * (high - low)


def finite(values: Iterable[float]) -> Array:
    """Return the finite values in ascending order."""
    array = np.sort(np.fromiter(values, dtype=np.float64))
    return array[np.isfinite(array)]


def robust_limits(values: Iterable[float], include: Sequence[float] = ()) -> tuple[float, float]:
    """Return the smallest and the largest value that are not outliers.

    A value is an outlier if it is more than `FENCE` interquartile ranges outside of the quartiles.

    Args:
        values: Values; infinity and NaN are omitted.
        include: Finite values within the limits in any case.

    Source: Tukey, Exploratory Data Analysis, 1977.

    >>> robust_limits([1.0, 2.0, 3.0, 4.0, 1e9])
    (1.0, 4.0)
    """
    known = finite(values)
    if not len(known):
        return min(include, default=0.0), max(include, default=1.0)
    first, third = np.quantile(known, [0.25, 0.75])
    reach = FENCE * (third - first)
    inside = known[(known >= first - reach) & (known <= third + reach)] if reach > 0 else known
    return min([float(inside[0]), *include]), max([float(inside[-1]), *include])


def ranked_limits(intervals: Sequence[Interval], include: Sequence[float] = ()) -> tuple[float, float]:
    """Return limits that show the differences between the leading estimates, whatever the values of the last ones.

    The limits contain the intervals whose estimates are within `REACH` spans of the first estimate. The span is the
    range of the better half of the estimates, or their median half-width if this is larger.

    Args:
        intervals: Estimates with intervals from best to worst, at least one.
        include: Values within the limits in any case.

    >>> [round(end, 3) for end in ranked_limits([Interval(x, x - 0.01, x + 0.01) for x in (0.9, 0.88, 0.87, 0.1)])]
    [0.86, 0.91]
    """
    first = intervals[0].estimate
    leading = intervals[: max(2, -(-len(intervals) // 2))]
    estimates = [item.estimate for item in leading]
    widths = [half for item in leading if math.isfinite(half := (item.high - item.low) / 2)]
    span = max(estimates) - min(estimates)
    reach = REACH * max(span, float(np.median(widths)) if widths else 0.0)
    known = [item for item in intervals if abs(item.estimate - first) <= reach]
    ends = [end for item in known for end in (item.estimate, item.low, item.high) if abs(end - first) <= reach]
    return min([*ends, *include]), max([*ends, *include])


def quantile_limits(values: Iterable[float], low: float, high: float) -> tuple[float, float] | None:
    """Return two quantiles of the finite values; None without values."""
    known = finite(values)
    if not len(known):
        return None
    first, last = np.quantile(known, [low, high], method="nearest").tolist()
    return first, last
