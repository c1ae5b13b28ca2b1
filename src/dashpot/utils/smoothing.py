"""Smoothing of noisy curves."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt


def smooth(values: Sequence[float], window: int) -> npt.NDArray[np.float64]:
    """Return the centred moving average of `values`.

    The average covers `window` values; an even `window` is increased by 1. At both ends of the curve, the window is
    truncated.

    >>> smooth([0.0, 3.0, 6.0, 3.0], window=3).tolist()
    [1.5, 3.0, 4.0, 4.5]
    """
    kernel = np.ones(min(window | 1, 2 * len(values) - 1))
    half = len(kernel) // 2
    total = np.convolve(np.asarray(values, dtype=np.float64), kernel)[half : half + len(values)]
    count = np.convolve(np.ones(len(values)), kernel)[half : half + len(values)]
    return total / count
