"""Intervals and tests of paired differences, and intervals of means."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import stats

from dashpot.constraints import Interval as Range
from dashpot.constraints import check
from dashpot.errors import ArgumentError
from dashpot.stats.bootstrap import bca_limits
from dashpot.stats.interval import Interval
from dashpot.stats.rounding import least_variance, without_rounding_errors
from dashpot.stats.sign_flips import sign_flip_p

Array = npt.NDArray[np.float64]

RESAMPLED = 20
"""Number of values from which intervals are bootstrap intervals and tests are permutation tests."""

LEVEL = Range(0, 1)
"""Confidence levels."""


def paired_interval(differences: Sequence[float] | Array, level: float = 0.95) -> Interval | None:
    """Return the confidence interval of a mean of paired differences.

    Below 20 differences, mean +- t s/sqrt(n), Student's t with n - 1 degrees of freedom. From 20 differences, the BCa
    bootstrap interval (`bca_limits`), extended to Student's limits where these are wider: an outlier moves both
    limits of BCa to its side, so that with heavy tails the interval alone covers 92 %. The variance is at least
    that of rounding (`rounding.least_variance`), which matters only if differences are equal.

    Args:
        differences: Differences of two methods by seed; NaN for missing values, which are omitted.
        level: Confidence level in (0, 1).

    Returns:
        The interval; None below two differences. If all differences are 0, both limits are 0.

    Raises:
        ArgumentError: If a difference is infinite, or `level` is out of range.

    Source: Efron, Better Bootstrap Confidence Intervals, JASA 82 (1987); Hesterberg, arXiv 1411.5279.

    >>> found = paired_interval([0.02, 0.01, 0.03, 0.02, 0.02])
    >>> round(found.estimate, 3), round(found.low, 3), round(found.high, 3), found.method
    (0.02, 0.011, 0.029, 'Student t')
    >>> paired_interval([0.02]) is None
    True
    """
    values = _finite("paired_interval", differences)
    check("paired_interval", "level", level, LEVEL)
    if len(values) < 2:
        return None
    if not values.any():
        return Interval(0.0, 0.0, 0.0, level, "identical values")
    low, high = limits_of_means(values, level, float(np.abs(values).max()))
    return Interval(float(values.mean()), float(low), float(high), level, method_of(len(values)))


def paired_p(differences: Sequence[float] | Array) -> float | None:
    """Return the two-sided p-value of a zero mean of paired differences.

    Below 20 differences, Student's t-test; from 20 differences, the sign-flip permutation test with 9999 fixed random
    sign vectors.

    Args:
        differences: Differences of two methods by seed; NaN for missing values, which are omitted.

    Returns:
        The p-value; None below two differences, 1 if all differences are 0.

    Raises:
        ArgumentError: If a difference is infinite.

    >>> round(paired_p([0.02, 0.01, 0.03, 0.02, 0.02]), 4)
    0.0032
    """
    values = _finite("paired_p", differences)
    n = len(values)
    if n < 2:
        return None
    if not values.any():
        return 1.0
    if n >= RESAMPLED:
        return float(sign_flip_p(values[None, :])[0])
    variance = max(values.var(ddof=1), float(least_variance(values, np.abs(values).max())))
    return float(2 * stats.t.sf(abs(values.mean()) / np.sqrt(variance / n), n - 1))


def mean_interval(scores: Sequence[float] | Array, level: float = 0.95, resolution: float = 0.0) -> Interval:
    """Return the confidence interval of a mean score.

    The same intervals as those of `paired_interval`. Equal scores with a resolution r have the variance r^2/12
    of the rounding.

    Args:
        scores: Scores of one method; NaN for missing values, which are omitted.
        level: Confidence level in (0, 1).
        resolution: Resolution of the scores, such as 1/297 for an accuracy on 297 images; 0 for exact scores.

    Returns:
        The interval, with infinite limits for a single score. If all scores are equal and exact, both limits are that
        score.

    Raises:
        ArgumentError: If there is no score, a score is infinite, or `level` is out of range.

    >>> found = mean_interval([0.91, 0.92, 0.90])
    >>> round(found.estimate, 3), round(found.low, 3), round(found.high, 3)
    (0.91, 0.885, 0.935)
    >>> mean_interval([0.91]).high
    inf
    """
    values = _finite("mean_interval", scores)
    check("mean_interval", "level", level, LEVEL)
    check("mean_interval", "resolution", resolution, Range(0, np.inf, "left"))
    if not len(values):
        raise ArgumentError("mean_interval: scores must contain a number, got none.")
    mean = float(values.mean())
    if len(values) == 1:
        return Interval(mean, -np.inf, np.inf, level, "one value")
    deviations = without_rounding_errors(values - values[0], float(np.abs(values).max()))
    if not deviations.any() and resolution > 0:
        half = float(stats.t.isf((1 - level) / 2, len(values) - 1)) * resolution / (12 * len(values)) ** 0.5
        return Interval(mean, mean - half, mean + half, level, "Student t, rounded values")
    if not deviations.any():
        return Interval(float(values[0]), float(values[0]), float(values[0]), level, "identical values")
    low, high = limits_of_means(values, level)
    return Interval(mean, float(low), float(high), level, method_of(len(values)))


def method_of(n: int) -> str:
    """Return the name of the interval of n values."""
    return "BCa" if n >= RESAMPLED else "Student t"


def limits_of_means(values: Array, level: float, scale: float | None = None) -> tuple[Array, Array]:
    """Return the limits of the intervals of means over the last axis, with at least two values.

    With a `scale`, the size of scores, the variance is at least that of rounding.
    """
    n = values.shape[-1]
    mean = values.mean(-1)
    least = 0.0 if scale is None else least_variance(values, scale)
    variance = np.maximum(values.var(-1, ddof=1), least)
    half = stats.t.isf((1 - level) / 2, n - 1) * np.sqrt(variance / n)
    if n < RESAMPLED:
        return mean - half, mean + half
    low, high = bca_limits(values, level)
    return np.minimum(low, mean - half), np.maximum(high, mean + half)


def p_of_limits(values: Array, scale: float) -> float:
    """Return 1 minus the largest level at which the interval of `limits_of_means` excludes 0; values are not equal.

    >>> p = p_of_limits(np.arange(-3.0, 17.0), scale=1.0)
    >>> low, high = limits_of_means(np.arange(-3.0, 17.0), 1 - p)
    >>> bool(p < 0.05), round(float(low), 4)
    (True, 0.0)
    """

    def excludes_zero(p: float) -> bool:
        low, high = limits_of_means(values, 1 - p, scale)
        return bool(low > 0 or high < 0)

    fails, holds = 1e-9, 1.0
    for _ in range(30):
        middle = (fails * holds) ** 0.5
        fails, holds = (fails, middle) if excludes_zero(middle) else (middle, holds)
    return holds


def _finite(owner: str, values: Sequence[float] | Array) -> Array:
    """Return the values without NaN as an array."""
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1:
        raise ArgumentError(f"{owner}: values must be a sequence of numbers, got {array.ndim} dimensions.")
    array = array[~np.isnan(array)]
    if np.isinf(array).any():
        raise ArgumentError(f"{owner}: values must be finite or NaN, got {array[np.isinf(array)][0]}.")
    return array
