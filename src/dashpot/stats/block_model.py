"""Two-way model with seeds as blocks: score = method + seed + noise, with a pooled variance of the noise."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import stats

from dashpot.stats.studentized_range import studentized_range_cdf, studentized_range_quantile

Array = npt.NDArray[np.float64]

_INFINITE = 10**6


class Residual(NamedTuple):
    """Mean square of the residuals, and its degrees of freedom."""

    variance: Array
    degrees: int


def residual(scores: Array) -> Residual:
    """Return the residual mean square of the two-way model for complete scores (methods x seeds in the last axes).

    >>> scores = np.array([[1.0, 2.0, 3.0], [2.0, 3.0, 7.0]])
    >>> found = residual(scores)
    >>> float(found.variance), found.degrees  # for two methods, half of the variance of the differences
    (1.5, 2)
    """
    methods, seeds = scores.shape[-2:]
    residuals = scores - scores.mean(-1, keepdims=True)
    residuals = residuals - residuals.mean(-2, keepdims=True)
    degrees = (methods - 1) * (seeds - 1)
    return Residual((residuals**2).sum((-1, -2)) / degrees, degrees)


def residual_with_missing(scores: Array) -> Residual:
    """Return the residual mean square by least squares for scores (methods x seeds) with NaN for missing values.

    The degrees of freedom are the number of scores minus the rank of the model; 0 without information on the variance.

    >>> scores = np.array([[1.0, 2.0, 3.0, np.nan], [2.0, 3.0, 7.0, 4.0]])
    >>> found = residual_with_missing(scores)
    >>> round(float(found.variance), 6), found.degrees
    (1.5, 2)
    """
    methods, seeds = np.nonzero(~np.isnan(scores))
    design = np.concatenate([np.eye(scores.shape[0])[methods], np.eye(scores.shape[1])[seeds]], 1)
    values = scores[methods, seeds]
    solution, _, rank, _ = np.linalg.lstsq(design, values - values.mean(), rcond=None)
    degrees = len(values) - int(rank)
    square = np.sum((values - values.mean() - design @ solution) ** 2)
    return Residual(np.asarray(square / degrees if degrees else np.nan), degrees)


@lru_cache(maxsize=256)
def tukey_factor(level: float, methods: int, degrees: int) -> float:
    """Return q/sqrt(2), the factor of the standard error of a difference in Tukey's simultaneous intervals.

    >>> round(tukey_factor(0.95, 2, 4), 3), round(tukey_factor(0.95, 6, 20), 3)  # for two methods, Student's t
    (2.776, 3.143)
    """
    if methods == 2:
        return float(stats.t.isf((1 - level) / 2, degrees))
    return studentized_range_quantile(level, methods, degrees) / float(np.sqrt(2))


def pair_level(level: float, methods: int) -> float:
    """Return the level of each pair for which Tukey's intervals with known variances have the joint level.

    The level of one pair is P(|Z| <= q/sqrt(2)) with q at infinite degrees of freedom.

    Source: Dunnett, Pairwise Multiple Comparisons in the Unequal Variance Case, JASA 75 (1980), for intervals with the
    own variance of each pair.

    >>> round(pair_level(0.95, 2), 4), round(pair_level(0.95, 6), 4)  # Bonferroni: 1 - .05/15 = .9967
    (0.95, 0.9956)
    """
    return level if methods == 2 else float(1 - 2 * stats.norm.sf(tukey_factor(level, methods, _INFINITE)))


def joint_p(p: float, methods: int) -> float:
    """Return the p-value of a pair, adjusted for all pairs as by `pair_level`.

    >>> round(joint_p(1 - pair_level(0.95, 6), 6), 4)
    0.05
    """
    return p if methods == 2 else tukey_p(float(stats.norm.isf(p / 2)), methods, _INFINITE)


def tukey_p(t: float, methods: int, degrees: int) -> float:
    """Return the p-value of a difference of t standard errors, adjusted for all pairs.

    >>> round(tukey_p(2.776, 2, 4), 3), round(tukey_p(3.143, 6, 20), 3)
    (0.05, 0.05)
    """
    if methods == 2:
        return float(2 * stats.t.sf(t, degrees))
    return 1 - float(studentized_range_cdf(t * np.sqrt(2), methods, degrees))
