"""Simultaneous intervals of a family of paired differences, such as those of two methods at several settings."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import stats

from dashpot.constraints import check
from dashpot.errors import ArgumentError
from dashpot.stats.differences import LEVEL, RESAMPLED, paired_interval
from dashpot.stats.interval import Interval
from dashpot.stats.pooling import OWN_SHARE, Pool, pool
from dashpot.stats.rounding import least_variance, without_rounding_errors

Array = npt.NDArray[np.float64]


def paired_family(
    first: Sequence[Sequence[float]] | Array,
    second: Sequence[Sequence[float]] | Array,
    level: float = 0.95,
    *,
    apart: Sequence[int] = (),
) -> tuple[Interval | None, ...]:
    """Return simultaneous intervals of the mean differences of the rows of two tables, paired by column.

    Below 20 seeds, the half-width is the larger of two, as in `all_pairs`, but for the K differences of the family in
    place of all pairs of its 2 K rows:

    * t sqrt(2 MS/n), with the mean square MS of the model score = row + seed + noise over all rows, and Bonferroni's
      correction for K differences;
    * t s/sqrt(n) with the own standard deviation s, at the confidence 1 - (1 - level)/2, or, if John's test rejects
      equal variances, with Bonferroni's correction.

    Differences of a row that is not in the model have the second half-width alone. From 20 seeds: the intervals of
    `paired_interval` with Bonferroni's correction. The K intervals contain all K means with the probability `level`.

    Args:
        first: Scores of shape (K, seeds), NaN for missing scores.
        second: Scores of the same shape; the row pairs are compared.
        level: Simultaneous confidence level in (0, 1).
        apart: Indices of pairs that are not in the model, such as those with diverged runs.

    Returns:
        An interval of first minus second for each row, with infinite limits for one common seed; None without one.

    Raises:
        ArgumentError: If the shapes differ, a score is infinite, or `level` is out of range.

    Source: Dunn, Multiple Comparisons Among Means, JASA 56 (1961); John, Biometrika 58 (1971).

    >>> one, other = paired_family([[0.90, 0.92, 0.91], [0.80, 0.81, 0.82]], [[0.80, 0.81, 0.82], [0.805, 0.81, 0.815]])
    >>> one.excludes(0.0), other.excludes(0.0)
    (True, False)
    """
    check("paired_family", "level", level, LEVEL)
    tables = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if tables[0].ndim != 2 or tables[0].shape != tables[1].shape or np.isinf(tables).any():
        raise ArgumentError(
            "paired_family: first and second must be tables of one shape without infinite scores, got the shapes "
            f"{tables[0].shape} and {tables[1].shape}."
        )
    count = len(tables[0])
    rows = np.concatenate(tables)
    known = np.abs(rows[~np.isnan(rows)])
    scale = float(known.max()) if known.size else 0.0
    pooled = _pool(rows, [*apart, *(count + index for index in apart)])
    return tuple(
        _interval(tables[0][i] - tables[1][i], scale, level, count, pooled if _in_pool(pooled, i, count) else None)
        for i in range(count)
    )


def _pool(rows: Array, apart: Sequence[int]) -> Pool:
    """Return the rows with a common variance; a row with fewer than two scores has none."""
    few = np.flatnonzero((~np.isnan(rows)).sum(1) < 2)
    return pool(rows, [*apart, *few.tolist()])


def _in_pool(pooled: Pool, index: int, count: int) -> bool:
    return index in pooled.members and count + index in pooled.members


def _interval(differences: Array, scale: float, level: float, count: int, pooled: Pool | None) -> Interval | None:
    values = without_rounding_errors(differences[~np.isnan(differences)], scale)
    n = len(values)
    if n == 0:
        return None
    mean, joint = float(values.mean()), 1 - (1 - level) / count
    if n == 1:
        return Interval(mean, -math.inf, math.inf, level, "one common seed")
    if not values.any():
        return Interval(0.0, 0.0, 0.0, level, "identical scores")
    if n >= RESAMPLED:
        found = paired_interval(values, joint)
        assert found is not None
        return Interval(mean, found.low, found.high, level, f"{found.method} with Bonferroni")
    variance = max(float(values.var(ddof=1)), float(least_variance(values, scale)))
    half = _half_width(variance, n, level, joint, pooled)
    name = "Student t with Bonferroni" + ("" if pooled is None else ", seeds as blocks")
    return Interval(mean, mean - half, mean + half, level, name)


def _half_width(variance: float, n: int, level: float, joint: float, pooled: Pool | None) -> float:
    share = (1 - level) / OWN_SHARE if pooled is not None and pooled.is_spherical else 1 - joint
    own = float(stats.t.isf(min(share, 1.0) / 2, n - 1)) * math.sqrt(variance / n)
    if pooled is None:
        return own
    found = pooled.residual
    return max(own, float(stats.t.isf((1 - joint) / 2, found.degrees)) * math.sqrt(2 * float(found.variance) / n))
