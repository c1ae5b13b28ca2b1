"""Half-widths of simultaneous intervals from the model with seeds as blocks, for methods with unequal variances too.

A method that collapses or diverges on some seeds has a larger variance than the others. Tukey's intervals with the
pooled variance are then too short for its pairs, and so long for all other pairs that nothing is found. Methods with
clearly larger variances are therefore not pooled, and the own interval of each pair limits the effect of those that
John's test does not detect.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import stats

from dashpot.stats.block_model import Residual, residual, residual_with_missing, tukey_factor, tukey_p
from dashpot.stats.sphericity import sphericity_p

Array = npt.NDArray[np.float64]

SPHERICITY_LEVEL = 0.1
"""P-value of equal variances below which the own interval of each pair has Bonferroni's correction."""

CLEAR_LEVEL = 0.001
"""P-value of equal variances below which the method with the largest residuals is not pooled."""

OWN_SHARE = 2
"""With equal variances, the own interval of each pair has the confidence 1 - alpha/2, uncorrected for other pairs."""


class Pool(NamedTuple):
    """Methods with a common variance.

    Attributes:
        members: Indices of the methods; empty if no variance is pooled.
        residual: Residual mean square of the members.
        is_spherical: Whether John's test accepts equal variances of all their differences.
    """

    members: tuple[int, ...]
    residual: Residual
    is_spherical: bool


def pool(table: Array, apart: Sequence[int] = ()) -> Pool:
    """Return the methods whose variance is pooled.

    While John's test rejects equal variances at the level .001, the method with the largest residuals is removed. At
    least three methods are pooled.

    Args:
        table: Scores by method and seed, NaN for missing scores.
        apart: Methods that are not pooled.

    >>> noise = np.random.default_rng(0).standard_normal((4, 8))
    >>> pool(noise).members, pool(noise * [[1], [1], [30], [1]]).members
    ((0, 1, 2, 3), (0, 1, 3))
    """
    members = [i for i in range(len(table)) if i not in apart]
    while len(members) >= 3:
        scores = table[members]
        complete = scores[:, ~np.isnan(scores).any(0)]
        if complete.shape[1] < 3:
            break
        p = float(sphericity_p(complete))
        if p >= CLEAR_LEVEL:
            found = residual_with_missing(scores) if np.isnan(scores).any() else residual(scores)
            return Pool(tuple(members), found, p >= SPHERICITY_LEVEL)
        del members[int(_squares(complete).argmax())]
    return Pool((), Residual(np.zeros(()), 0), is_spherical=False)


def _squares(scores: Array) -> Array:
    """Return the sum of squared residuals of each method."""
    residuals = scores - scores.mean(-1, keepdims=True)
    residuals = residuals - residuals.mean(-2, keepdims=True)
    return (residuals**2).sum(-1)


def pair_half_width(variance: float | Array, seeds: int, pooled: Pool | None, level: float, methods: int) -> Array:
    """Return the half-width of the interval of a pair.

    Args:
        variance: Variance of the differences of the pair.
        seeds: Number of common seeds.
        pooled: The pool if both methods are members, else None.
        level: Simultaneous confidence level.
        methods: Number of methods.

    Returns:
        Half-width, of the common shape of `variance` and that of the pool.
    """
    own = stats.t.isf((1 - level) / 2 / _tests(pooled, methods), seeds - 1) * np.sqrt(np.divide(variance, seeds))
    if pooled is None:
        return own
    found = pooled.residual
    return np.maximum(own, tukey_factor(level, methods, found.degrees) * np.sqrt(2 * found.variance / seeds))


def _tests(pooled: Pool | None, methods: int) -> int:
    """Return the number of tests for which the own interval of a pair is corrected."""
    return OWN_SHARE if pooled is not None and pooled.is_spherical else methods * (methods - 1) // 2


def pair_p(mean: float, variance: float, seeds: int, pooled: Pool | None, methods: int) -> float:
    """Return the p-value that is at most alpha if and only if the interval at the level 1 - alpha excludes 0."""
    if mean == 0:  # also equal scores on all common seeds, which have no variance
        return 1.0
    t = abs(mean) / math.sqrt(variance / seeds)
    own = min(1.0, _tests(pooled, methods) * float(2 * stats.t.sf(t, seeds - 1)))
    if pooled is None:
        return own
    error = float(np.sqrt(2 * pooled.residual.variance / seeds))
    return max(own, tukey_p(abs(mean) / error, methods, pooled.residual.degrees) if error else 0.0)
