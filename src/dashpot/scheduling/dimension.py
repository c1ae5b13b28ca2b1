"""Range of a setting in a search."""

from __future__ import annotations

import math
from dataclasses import dataclass

from dashpot.errors import ArgumentError


@dataclass(frozen=True)
class Dimension:
    """Range of one setting.

    Args:
        low: Smallest value, > 0 if `log` is set.
        high: Largest value, > `low`.
        log: Whether the logarithm of the value is uniform, instead of the value.

    Raises:
        ArgumentError: If the limits are not finite or not in order, or not positive although `log` is set.

    >>> Dimension(0.01, 1.0, log=True).at(0.5)
    0.1
    """

    low: float
    high: float
    log: bool = False

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise ArgumentError(f"Dimension: low and high must be finite with low < high, got {self.low}, {self.high}.")
        if self.log and self.low <= 0:
            raise ArgumentError(f"Dimension: low must be positive on a logarithmic scale, got {self.low}.")

    def at(self, position: float) -> float:
        """Return the value at a position in [0, 1] between the limits, rounded to 6 significant digits."""
        if self.log:
            value = math.exp(math.log(self.low) + position * (math.log(self.high) - math.log(self.low)))
        else:
            value = self.low + position * (self.high - self.low)
        return min(max(float(f"{value:.6g}"), self.low), self.high)

    def contains(self, value: float) -> bool:
        """Return whether a value is within the limits."""
        return self.low <= value <= self.high

    def widened(self, value: float) -> Dimension:
        """Return the smallest range that contains this range and `value`."""
        return Dimension(min(self.low, value), max(self.high, value), self.log)
