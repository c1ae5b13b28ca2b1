"""Constraints on arguments that several schedules have in common."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any

from dashpot.constraints import Interval, OneOf

PLACE = Interval(0, math.inf, "left", integer=True)
"""A step, counted from 0."""

STEPS = Interval(1, math.inf, "left", integer=True)
"""A number of steps."""

FACTOR = Interval(0, math.inf)
FRACTION = Interval(0, 1, "both")
POLE = Interval(0, 1, "left")
FLAG = OneOf((False, True))
EASE = OneOf(("cosine", "linear"))


@dataclass(frozen=True)
class Increasing:
    """Constraint: a strictly increasing tuple of positive integers.

    >>> Increasing().allows((3, 7)), Increasing().allows((7, 3))
    (True, False)
    """

    def __str__(self) -> str:
        return "a tuple of positive integers, each larger than the one before"

    def allows(self, value: Any) -> bool:
        """Return True if `value` is a strictly increasing tuple of positive integers."""
        if not isinstance(value, tuple) or not value or not all(STEPS.allows(v) for v in value):
            return False
        return all(a < b for a, b in itertools.pairwise(value))

    def refused(self) -> list[Any]:
        """Return examples of rejected values, for tests."""
        return [None, 5, "5", (), (0,), (-1, 2), (3, 3), (4, 2), *[(1, bad) for bad in STEPS.refused()]]
