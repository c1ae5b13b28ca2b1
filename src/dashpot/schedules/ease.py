"""Linear and cosine interpolation between two values."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping


def linear(start: float, end: float, q: float) -> float:
    """Interpolate linearly from `start` (q = 0) to `end` (q = 1); the results at both ends are exact.

    >>> linear(1.0, 0.1, 0.5)
    0.55
    """
    return (1 - q) * start + q * end


def cosine(start: float, end: float, q: float) -> float:
    """Interpolate along half a cosine period for q in [0, 1]: end + (start - end) (1 + cos(pi q)) / 2.

    >>> round(cosine(1.0, 0.0, 0.25), 4)
    0.8536
    """
    return linear(start, end, (1 - math.cos(math.pi * q)) / 2)


EASES: Mapping[str, Callable[[float, float, float], float]] = {"cosine": cosine, "linear": linear}
