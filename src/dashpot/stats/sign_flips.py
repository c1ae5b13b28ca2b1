"""Sign-flip permutation tests of means, for many sets of paired values at once."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

VECTORS = 9999
"""Number of random sign vectors. They are fixed: the same values always have the same p-value."""

_CHUNK = 256  # rows per product, of 20 MB


@lru_cache(maxsize=4)
def _signs(n: int) -> Array:
    return np.random.default_rng(n).choice([-1.0, 1.0], size=(VECTORS, n))


def sign_flip_p(values: Array) -> Array:
    """Return p-values of sign-flip tests of zero means, adjusted for all rows of each set.

    Under the null hypothesis, the values of a seed and their negatives are equally probable. The signs of a seed are
    the same in all rows. The adjusted p-value is the share of sign vectors, the observed one included, for which the
    largest statistic of any row reaches that of the row; the statistic is (sum of values)^2/(sum of squares), a
    monotonic function of the t statistic.

    Args:
        values: Values of n seeds in the last axis, rows in the second last axis.

    Returns:
        P-values, without the last axis.

    Source: Westfall and Young, Resampling-Based Multiple Testing (1993), single-step max T.

    >>> sign_flip_p(np.array([[1.0] * 20, [1.0, -1.0] * 10]))
    array([1.e-04, 1.e+00])
    """
    rows, n = values.shape[-2:]
    sets = values.reshape(-1, rows, n)
    squares = (sets**2).sum(-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        observed = np.nan_to_num(sets.sum(-1) ** 2 / squares)
        scaled = np.nan_to_num(sets / np.sqrt(squares)[..., None])
    p = np.empty(observed.shape)
    size = max(_CHUNK // rows, 1)
    for start in range(0, len(scaled), size):
        part = slice(start, start + size)
        chunk = scaled[part]
        largest = ((chunk.reshape(-1, n) @ _signs(n).T) ** 2).reshape(len(chunk), rows, VECTORS).max(1)
        # sums in a different order differ by rounding
        count = (largest[:, None, :] >= observed[part, :, None] * (1 - 1e-9)).sum(-1)
        p[part] = (count + 1) / (VECTORS + 1)
    return p.reshape(values.shape[:-1])
