"""Times to an event with right-censoring, and critical values, shared by the statistics of steps to a target."""

from __future__ import annotations

from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from dashpot.constraints import Interval, check
from dashpot.errors import ArgumentError

Array = npt.NDArray[np.float64]
Booleans = npt.NDArray[np.bool_]
LEVEL = Interval(0, 1)


class Times(NamedTuple):
    """Steps at which runs reached the target, or ended without it."""

    steps: Array
    reached: Booleans


def times(owner: str, steps: Any, reached: Any) -> Times:
    """Return validated times; runs with steps NaN are missing and stay NaN.

    Args:
        owner: Name of the function, for messages.
        steps: Number of steps to the target, or of the whole run if it missed the target; >= 0 or NaN.
        reached: Whether each run reached the target.

    Raises:
        ArgumentError: If the lengths differ, or a number of steps is negative or infinite.
    """
    found = Times(np.asarray(steps, dtype=np.float64), np.asarray(reached, dtype=bool))
    if found.steps.ndim != 1 or found.steps.shape != found.reached.shape:
        raise ArgumentError(
            f"{owner}: steps and reached must be one-dimensional and of the same length, "
            f"got shapes {found.steps.shape} and {found.reached.shape}."
        )
    wrong = found.steps[(found.steps < 0) | np.isinf(found.steps)]
    if wrong.size:
        raise ArgumentError(
            f"{owner}: steps must be numbers in [0, inf) (for a miss, the steps of the run), got {wrong[0]:g}."
        )
    return found


def present(found: Times) -> Times:
    """Return the times without missing runs."""
    keep = ~np.isnan(found.steps)
    return Times(found.steps[keep], found.reached[keep])


def normal_quantile(level: float) -> float:
    """Return the two-sided critical value of the normal distribution.

    >>> round(normal_quantile(0.95), 3)
    1.96
    """
    check("stats", "level", level, LEVEL)
    return NormalDist().inv_cdf((1 + level) / 2)
