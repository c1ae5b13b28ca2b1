"""Golden-ratio Kronecker sequence, a low-discrepancy sequence in [0, 1)."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

PHI = (math.sqrt(5) - 1) / 2


def point(k: int) -> float:
    """Return the fractional part of k phi for k = 0, 1, ... and phi = (sqrt 5 - 1) / 2.

    >>> [round(point(k), 4) for k in range(5)]
    [0.0, 0.618, 0.2361, 0.8541, 0.4721]
    """
    return (k * PHI) % 1.0


def sorted_point(k: int, count: int) -> float:
    """Return the k-th smallest of the first `count` points of the sequence, k = 0, 1, ...

    >>> [round(sorted_point(k, 5), 4) for k in range(5)]
    [0.0, 0.2361, 0.4721, 0.618, 0.8541]
    """
    return float(_sorted(count)[k])


@lru_cache(maxsize=8)
def _sorted(count: int) -> np.ndarray:
    return np.sort((np.arange(count) * PHI) % 1.0)
