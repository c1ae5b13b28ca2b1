"""Arrays of points at which a function is evaluated."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dashpot.constraints import shown
from dashpot.errors import ArgumentError


def finite_array(owner: str, name: str, value: Any) -> NDArray[np.float64]:
    """Return finite real numbers as an array.

    >>> finite_array("at", "omega", [0, 1.5])
    array([0. , 1.5])
    """
    try:
        array = np.asarray(value)
        points = None if array.dtype.kind not in "iuf" else array.astype(float)
    except (RuntimeError, TypeError, ValueError):  # a tensor that requires gradients, or rows of unequal length
        points = None
    if points is None or not np.isfinite(points).all():
        raise ArgumentError(f"{owner}: {name} must be a finite number or an array of them, got {shown(value)}.")
    return points
