"""Simultaneous intervals and adjusted p-values of the differences of all pairs of methods, with seeds as blocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt

from dashpot.constraints import check
from dashpot.errors import ArgumentError
from dashpot.stats.block_model import joint_p, pair_level
from dashpot.stats.differences import LEVEL, RESAMPLED, limits_of_means, p_of_limits
from dashpot.stats.interval import Interval, reverse
from dashpot.stats.pooling import Pool, pair_half_width, pair_p, pool
from dashpot.stats.rounding import least_variance, without_rounding_errors
from dashpot.stats.sign_flips import sign_flip_p
from dashpot.utils.format import counted

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class AllPairs:
    """Differences of all pairs of methods.

    Attributes:
        intervals: For methods i and j, the interval of the score of i minus the score of j: simultaneous for all
            pairs; with infinite limits for one common seed; None without a common seed and on the diagonal.
        p: P-values, adjusted for all pairs; None below two common seeds and on the diagonal.
        sd: Standard deviations of the paired differences; None below two common seeds and on the diagonal.
        seeds: Numbers of common seeds.
        level: Simultaneous confidence level.
        method: Description of the method for reports.
    """

    intervals: tuple[tuple[Interval | None, ...], ...]
    p: tuple[tuple[float | None, ...], ...]
    sd: tuple[tuple[float | None, ...], ...]
    seeds: tuple[tuple[int, ...], ...]
    level: float
    method: str

    def separated(self, i: int, j: int) -> bool:
        """Return whether the interval of a pair excludes 0 and its adjusted p-value is at most 1 - level."""
        interval, p = self.intervals[i][j], self.p[i][j]
        return interval is not None and p is not None and interval.excludes(0.0) and p <= 1 - self.level


def all_pairs(scores: Sequence[Sequence[float]] | Array, level: float = 0.95, *, apart: Sequence[int] = ()) -> AllPairs:
    """Compare all pairs of methods by their scores on the same seeds.

    Two methods: the paired interval and test of `paired_interval` and `paired_p`. More methods, below 20 common seeds:
    the half-width is the larger of two.

    * Tukey's q sqrt(MS/n), with the mean square MS of the model score = method + seed + noise.
    * t s/sqrt(n) with the own standard deviation s of the pair, at the confidence 1 - (1 - level)/2, or, if John's test
      rejects equal variances of all differences at the level .1, with Bonferroni's correction for all pairs.

    While the test rejects at the level .001, the method with the largest residuals is removed from the model; its pairs
    have the second half-width alone. The second half-width protects against unequal variances, for which Tukey's
    intervals are too short. From 20 common seeds: BCa intervals of each pair (`paired_interval`) at the level of
    Tukey's intervals with known variances, and sign-flip permutation tests with the maximum over all pairs. If only one
    of interval and test finds a difference, the interval is extended to 0, or the p-value is that of the interval.

    A pair uses the seeds that both methods have. A method with fewer than two scores has no interval. Methods with the
    same scores on all seeds are equal, and count as one method in the model.

    Args:
        scores: Scores by method and seed, NaN for missing scores; rows are methods.
        level: Simultaneous confidence level in (0, 1).
        apart: Methods that are not in the model, such as those with diverged runs.

    Returns:
        Intervals, p-values and standard deviations of all pairs.

    Raises:
        ArgumentError: If `scores` is not a table with at least two methods and one seed, a score is infinite, or
            `level` is out of range.

    Source: Tukey, The Problem of Multiple Comparisons (1953); John, Biometrika 58 (1971); Efron, JASA 82 (1987);
    Westfall and Young, Resampling-Based Multiple Testing (1993).

    >>> found = all_pairs([[0.90, 0.92, 0.91], [0.80, 0.81, 0.82], [0.805, 0.81, 0.815]])
    >>> found.separated(0, 1), found.separated(1, 2), found.method
    (True, False, 'Tukey, seeds as blocks')
    """
    table = _table(scores, level)
    pairs = list(combinations(range(len(table)), 2))
    distinct, twins = _distinct(table)
    estimated, name = _estimates(table, distinct, level, apart)
    intervals, p, sd = _matrix(len(table)), _matrix(len(table)), _matrix(len(table))
    counts = (~np.isnan(table)).astype(int)
    seeds = counts @ counts.T
    for i, j in pairs:
        found = estimated.get((twins[i], twins[j])) or _plain(table[i] - table[j], level, twins[i] == twins[j])
        if found is not None:
            intervals[i][j], p[i][j], sd[i][j] = found.interval, found.p, found.sd
            intervals[j][i], p[j][i], sd[j][i] = reverse(found.interval), found.p, found.sd
    return AllPairs(_tuples(intervals), _tuples(p), _tuples(sd), _tuples(seeds.tolist()), level, name)


@dataclass(frozen=True)
class _Pair:
    interval: Interval
    p: float | None
    sd: float | None


def _table(scores: Sequence[Sequence[float]] | Array, level: float) -> Array:
    check("all_pairs", "level", level, LEVEL)
    table = np.asarray(scores, dtype=np.float64)
    if table.ndim != 2 or len(table) < 2 or not table.shape[1]:
        raise ArgumentError(
            f"all_pairs: scores must have at least two methods and one seed, got an array of shape {table.shape}."
        )
    if np.isinf(table).any():
        raise ArgumentError("all_pairs: scores must be finite or NaN, got inf.")
    return table


def _distinct(table: Array) -> tuple[list[int], list[int]]:
    """Return the methods with distinct scores, at least two each, and for each method the first one equal to it."""
    twins = list(range(len(table)))
    scale = _scale(table)
    for i, j in combinations(range(len(table)), 2):
        both = ~np.isnan(table[i]) & ~np.isnan(table[j])
        same = (np.isnan(table[i]) == np.isnan(table[j])).all() and both.sum() >= 2
        if twins[j] == j and twins[i] == i and same and (np.abs(table[i] - table[j])[both] <= 1e-12 * scale).all():
            twins[j] = i
    enough = (~np.isnan(table)).sum(1) >= 2
    return [i for i in range(len(table)) if twins[i] == i and enough[i]], twins


def _scale(table: Array) -> float:
    known = np.abs(table[~np.isnan(table)])
    return float(known.max()) if known.size else 0.0


def _estimates(
    table: Array, distinct: Sequence[int], level: float, apart: Sequence[int]
) -> tuple[dict[tuple[int, int], _Pair], str]:
    """Return the results of all pairs of distinct methods with two common seeds, and the name of the method."""
    scale = _scale(table)
    differences = {}
    for i, j in combinations(range(len(distinct)), 2):
        values = table[distinct[i]] - table[distinct[j]]
        if (~np.isnan(values)).sum() >= 2:
            differences[i, j] = without_rounding_errors(values[~np.isnan(values)], scale)
    if not differences:
        return {}, "no intervals: fewer than two seeds"
    if min(map(len, differences.values())) >= RESAMPLED:
        found, name = _resampled(differences, scale, level, len(distinct))
    else:
        rows = [i for i, method in enumerate(distinct) if method in apart]
        found, name = _modelled(table[list(distinct)], differences, scale, level, rows)
    if np.isnan(table).any():
        name += "; missing scores: common seeds of each pair"
    return {(distinct[i], distinct[j]): pair for (i, j), pair in found.items()}, name


def _resampled(
    differences: dict[tuple[int, int], Array], scale: float, level: float, methods: int
) -> tuple[dict[tuple[int, int], _Pair], str]:
    pairs, joint, every = len(differences), pair_level(level, methods), list(differences.values())
    if len(set(map(len, every))) == 1:
        stacked = np.stack(every)
        p, limits = sign_flip_p(stacked), np.transpose(limits_of_means(stacked, joint, scale))
    else:  # different seeds: Bonferroni's correction of each test
        p = np.array([min(1.0, pairs * sign_flip_p(values[None])[0]) for values in every])
        limits = np.array([limits_of_means(values, joint, scale) for values in every])
    found, name = {}, "BCa, sign-flip permutation" + (", all pairs" if pairs > 1 else "")
    for (key, values), value, (low, high) in zip(differences.items(), p.tolist(), limits.tolist(), strict=True):
        if value > 1 - level:
            low, high = min(low, 0.0), max(high, 0.0)
        elif low <= 0 <= high:
            value = max(value, joint_p(p_of_limits(values, scale), methods))
        interval = Interval(float(values.mean()), low, high, level, name)
        found[key] = _Pair(interval, float(value), float(values.std(ddof=1)))
    return found, name


def _modelled(
    table: Array, differences: dict[tuple[int, int], Array], scale: float, level: float, apart: Sequence[int]
) -> tuple[dict[tuple[int, int], _Pair], str]:
    """Return the results from the model with seeds as blocks; keys and `apart` are rows of the table."""
    methods = len(table)
    pooled = pool(table, apart)
    found = {}
    for (i, j), values in differences.items():
        members = pooled if i in pooled.members and j in pooled.members else None
        mean, n = float(values.mean()), len(values)
        variance = max(float(values.var(ddof=1)), float(least_variance(values, scale)))
        half = float(pair_half_width(variance, n, members, level, methods))
        interval = Interval(mean, mean - half, mean + half, level, _name(methods, members))
        p = pair_p(mean, variance, n, members, methods)
        found[i, j] = _Pair(interval, p, float(values.std(ddof=1)))
    return found, _study_name(methods, pooled)


def _name(methods: int, pooled: Pool | None) -> str:
    if methods == 2:
        return "Student t, paired"
    return "Student t with Bonferroni" if pooled is None else "Tukey, seeds as blocks"


def _study_name(methods: int, pooled: Pool) -> str:
    if not pooled.members:
        return _name(methods, None)
    name, other = _name(methods, pooled), methods - len(pooled.members)
    if other:
        name += f"; Student t with Bonferroni for the pairs of {counted(other, 'method')} with a different variance"
    return name if pooled.is_spherical else f"{name}; unequal variances: at least Student t with Bonferroni"


def _plain(differences: Array, level: float, is_equal: bool) -> _Pair | None:
    """Return the difference of equal methods, or of methods with one common seed; None without a common seed."""
    values = differences[~np.isnan(differences)]
    if not len(values):
        return None
    if is_equal and len(values) >= 2:
        return _Pair(Interval(0.0, 0.0, 0.0, level, "identical scores"), 1.0, 0.0)
    return _Pair(Interval(float(values.mean()), -np.inf, np.inf, level, "one common seed"), None, None)


def _matrix(size: int) -> list[list]:
    return [[None] * size for _ in range(size)]


def _tuples(rows: list[list]) -> tuple:
    return tuple(tuple(row) for row in rows)
