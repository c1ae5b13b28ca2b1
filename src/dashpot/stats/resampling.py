"""Bootstrap limits and sign-flip tests of means, on many sets of paired values at once.

The resamples are fixed: the same values always have the same limits and p-values.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy import stats

Array = npt.NDArray[np.float64]

RESAMPLES = 9999
_SMALLEST_TAIL = 0.001  # about 10 of 9999 resamples are beyond the limit
_CHUNK = 256  # sets of values per product; the product of 9999 resamples needs 20 MB


@lru_cache(maxsize=4)
def _counts(n: int) -> Array:
    """Return the shares of the n values in each bootstrap resample."""
    return np.random.default_rng(n).multinomial(n, np.full(n, 1 / n), size=RESAMPLES) / n


@lru_cache(maxsize=4)
def _signs(n: int) -> Array:
    return np.random.default_rng(n).choice([-1.0, 1.0], size=(RESAMPLES, n))


def _chunks(values: Array, size: int) -> Iterator[tuple[slice, Array]]:
    for start in range(0, len(values), size):
        part = slice(start, start + size)
        yield part, values[part]


def bca_limits(values: Array, level: float) -> tuple[Array, Array]:
    r"""Return the limits of BCa bootstrap intervals of means, widened to the width of Student's t.

    Percentiles of the bootstrap distribution with bias correction and acceleration. The distances of the limits from
    the mean are multiplied by t sqrt(n/(n - 1))/z, so that the interval of Gaussian values is Student's. Without the
    factor, the interval of 20 Gaussian values covers 93 %. Percentiles beyond .1 % are extrapolated from those at .1 %.

    Args:
        values: Sets of values in the last axis, at least two values in each.
        level: Confidence level in (0, 1).

    Returns:
        Lower and upper limits, without the last axis.

    Source: Efron, Better Bootstrap Confidence Intervals, JASA 82 (1987); Hesterberg, arXiv 1411.5279
    (expanded percentiles).

    >>> low, high = bca_limits(np.arange(20.0), 0.95)
    >>> round(float(low), 1), round(float(high), 1)
    (6.8, 12.2)
    """
    n = values.shape[-1]
    rows = values.reshape(-1, n)
    tail = (1 - level) / 2
    inner = max(tail, _SMALLEST_TAIL)
    factor = stats.t.isf(tail, n - 1) * np.sqrt(n / (n - 1)) / stats.norm.isf(inner)
    limits = np.empty((2, len(rows)))
    for part, chunk in _chunks(rows, _CHUNK):
        mean = chunk.mean(1)
        limits[:, part] = mean + factor * (_bca_percentiles(chunk, inner) - mean)
    low, high = limits.reshape(2, *values.shape[:-1])
    return low, high


def _bca_percentiles(rows: Array, tail: float) -> Array:
    """Return the lower and the upper BCa percentile of each row."""
    mean = rows.mean(1)
    means = np.sort(rows @ _counts(rows.shape[1]).T, axis=1)
    rounding = 1e-12 * np.abs(rows).max(1, initial=0)
    below = (means < (mean - rounding)[:, None]).mean(1)
    equal = (np.abs(means - mean[:, None]) <= rounding[:, None]).mean(1)
    shift = stats.norm.ppf(np.clip(below + equal / 2, 0.5 / RESAMPLES, 1 - 0.5 / RESAMPLES))
    centered = rows - mean[:, None]
    spread = (centered**2).sum(1) ** 1.5
    cubes = (centered**3).sum(1)
    acceleration = np.divide(cubes, 6 * spread, out=np.zeros_like(cubes), where=spread > 0)
    z = shift + np.array([[-1.0], [1.0]]) * stats.norm.isf(tail)
    share = stats.norm.cdf(shift + z / (1 - acceleration * z))
    position = np.clip(share * (RESAMPLES + 1) - 1, 0, RESAMPLES - 1)
    first = np.floor(position).astype(int)
    second = np.minimum(first + 1, RESAMPLES - 1)
    index = np.arange(len(rows))
    return means[index, first] + (position - first) * (means[index, second] - means[index, first])


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
    for part, chunk in _chunks(scaled, max(_CHUNK // rows, 1)):
        largest = ((chunk.reshape(-1, n) @ _signs(n).T) ** 2).reshape(len(chunk), rows, RESAMPLES).max(1)
        # sums in a different order differ by rounding
        count = (largest[:, None, :] >= observed[part, :, None] * (1 - 1e-9)).sum(-1)
        p[part] = (count + 1) / (RESAMPLES + 1)
    return p.reshape(values.shape[:-1])
