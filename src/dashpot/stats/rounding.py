"""Variance of differences of rounded scores.

Equal differences, such as those of accuracies on a small test set, have the variance 0 by coincidence. An interval
of zero width would then be a verdict after two seeds. The variance of a difference is therefore at least that of
rounding to the resolution of the differences. The minimum is effective only if differences are equal.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

EXACT = 1e-12
"""Differences below this multiple of the largest score are rounding errors of the arithmetic."""


def without_rounding_errors(differences: Array, scale: float) -> Array:
    """Replace differences below `EXACT` times `scale` by 0.

    >>> without_rounding_errors(np.array([1e-17, 0.5]), scale=1.0)
    array([0. , 0.5])
    """
    return np.where(np.abs(differences) <= EXACT * scale, 0.0, differences)


def resolution(differences: Array, scale: float) -> Array:
    """Return the smallest distance of two distinct values in the last axis, 0 included; 0 if all values are 0.

    >>> float(resolution(np.array([0.5, 0.5, 0.25]), scale=1.0))
    0.25
    """
    zeros = np.zeros((*differences.shape[:-1], 1))
    gaps = np.diff(np.sort(np.concatenate([differences, zeros], -1), -1), axis=-1)
    smallest = np.where(gaps > EXACT * scale, gaps, np.inf).min(-1, initial=np.inf)
    return np.where(np.isfinite(smallest), smallest, 0.0)


def least_variance(differences: Array, scale: float) -> Array:
    """Return the variance of the difference of two scores rounded to the resolution of the differences.

    A score rounded to multiples of r has an error with variance r^2/12, a difference of two scores r^2/6.

    >>> round(float(least_variance(np.array([0.6, 0.6]), scale=1.0)), 4)
    0.06
    """
    return resolution(differences, scale) ** 2 / 6
