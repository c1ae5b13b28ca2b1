"""Ratio of the steps to a target of two methods, with a confidence interval for runs with and without misses."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from dashpot.constraints import Interval as Range
from dashpot.constraints import check
from dashpot.errors import ArgumentError
from dashpot.stats.interval import Interval
from dashpot.stats.survival import splits
from dashpot.stats.times import LEVEL, Array, Booleans, Times, times

PAIRED_FROM = 7
"""Smallest number of seeds for exchanges within pairs; with fewer, too few exchanges exist for a level of 95 %."""

EXACT_UP_TO = 12
"""Largest number of seeds whose 2^n exchanges within pairs are enumerated."""


class _Pairs(NamedTuple):
    """Steps of both methods by seed, with inf for a miss, and the steps at which a miss is censored."""

    a: Array
    b: Array
    budget: float


def step_ratio(
    a_steps: Any,
    a_reached: Any,
    b_steps: Any,
    b_reached: Any,
    *,
    level: float = 0.95,
    spacing: float = 0.0,
) -> Interval | None:
    """Return the ratio of the steps to the target, method a divided by method b, paired by seed.

    Model: the steps of method a have the distribution of those of method b, multiplied by the ratio.

    Without misses, the ratio is the geometric mean of the paired ratios, with Student's interval of their logarithm.
    With misses, it is the ratio r at which a rank test of a/r against b is balanced, and the interval contains all r
    that the test does not reject. Before the ranks are computed, both samples are censored at the smaller of budget/r
    and budget, so that they have equal distributions if r is the true ratio: the test is exact under this model. It
    exchanges the two methods within seeds from 7 seeds on, and permutes all runs for fewer, because the exchanges of
    5 seeds have no p-value below .0625.

    Steps are known up to the spacing of the evaluations. The middle of the last interval between evaluations replaces
    the first evaluation that meets the target, the standard error of a difference is at least that of the rounding,
    and limits are extended by the largest bias of rounded means.

    Args:
        a_steps: Steps of method a to the target, or of the whole run if it missed the target; >= 0; NaN if missing.
        a_reached: Whether each run of method a reached the target.
        b_steps: Steps of method b, for the same seeds in the same order.
        b_reached: Whether each run of method b reached the target.
        level: Confidence level; in (0, 1).
        spacing: Steps between evaluations; >= 0; 0 for exact steps.

    Returns:
        The ratio with its interval. A limit is 0 or inf if the data do not bound the ratio on this side, which is the
        rule for one seed, and for two or three seeds with misses; the estimate is 0 or inf if all runs of one method
        miss the target. None without a pair of runs, or if no run reaches the target within the smallest
        budget of a miss.

    Raises:
        ArgumentError: If lengths differ, or a number of steps, `level` or `spacing` is out of range.

    Source: Wei and Gail, J. Am. Stat. Assoc. 78 (1983) 382 (inversion of rank tests of censored samples); O'Brien and
        Fleming, Biometrics 43 (1987) 169 (paired test with ranks of all runs).

    Example:
        >>> ratio = step_ratio([200, 220, 180], [True] * 3, [100, 100, 95], [True] * 3)
        >>> round(ratio.estimate, 2), round(ratio.low, 2), round(ratio.high, 2), ratio.method
        (2.03, 1.68, 2.45, 'Student t of log ratios')
    """
    check("step_ratio", "level", level, LEVEL)
    check("step_ratio", "spacing", spacing, Range(0, math.inf, "left"))
    a, b = times("step_ratio", a_steps, a_reached), times("step_ratio", b_steps, b_reached)
    if a.steps.shape != b.steps.shape:
        raise ArgumentError(
            f"step_ratio: both methods must have the same seeds, got {a.steps.size} and {b.steps.size} runs."
        )
    keep = ~np.isnan(a.steps + b.steps)
    a, b = (Times(x.steps[keep], x.reached[keep]) for x in (a, b))
    if not (a.reached.any() or b.reached.any()):
        return None
    pairs = _pairs(a, b, spacing)
    if not np.isfinite(np.concatenate([pairs.a, pairs.b])).any():
        return None
    if np.isfinite(pairs.a).all() and np.isfinite(pairs.b).all():
        return _student(pairs, level, spacing)
    return _inverted(pairs, level, spacing)


def _pairs(a: Times, b: Times, spacing: float) -> _Pairs:
    """Return the pairs with the middle of the interval between evaluations, censored at a common budget."""
    missed = np.concatenate([a.steps[~a.reached], b.steps[~b.reached]])
    budget = float(missed.min(initial=math.inf))
    first, second = (np.where(x.reached & (x.steps <= budget), x.steps, np.inf) for x in (a, b))
    positive = np.concatenate([first, second])
    positive = positive[positive > 0]
    smallest = spacing or float(positive.min(initial=1.0))
    first, second = (np.maximum(x - spacing / 2, smallest / 2) for x in (first, second))
    return _Pairs(first, second, budget)


def _student(pairs: _Pairs, level: float, spacing: float) -> Interval:
    """Return the geometric mean of the ratios, with Student's interval."""
    logs = np.log(pairs.a / pairs.b)
    center, n = float(logs.mean()), logs.size
    if n == 1:
        return Interval(math.exp(center), 0.0, math.inf, level, "none (one seed)")
    from scipy import stats

    rounding = spacing**2 / 12 * float(np.mean(pairs.a**-2.0 + pairs.b**-2.0))
    error = math.sqrt(max(float(logs.var(ddof=1)), rounding) / n)
    half = float(stats.t.ppf((1 + level) / 2, n - 1)) * error + _rounding_bias(pairs, spacing)
    return Interval(math.exp(center), _exp(center - half), _exp(center + half), level, "Student t of log ratios")


def _exp(value: float) -> float:
    return math.exp(value) if value < 700 else math.inf


def _rounding_bias(pairs: _Pairs, spacing: float) -> float:
    """Return a bound on the bias of the log ratio of means of rounded steps.

    The mean of steps rounded to a grid of spacing g, of a normal distribution with standard deviation s, deviates from
    the true mean by at most g/2 exp(-2 (pi s/g)^2): rounding errors average out only if the runs spread over the grid.
    """
    if spacing == 0:
        return 0.0
    total = 0.0
    for steps in (pairs.a[np.isfinite(pairs.a)], pairs.b[np.isfinite(pairs.b)]):
        if steps.size:
            variance = max(float(steps.var(ddof=1)) - spacing**2 / 12, 0.0) if steps.size > 1 else 0.0
            total += spacing / 2 * math.exp(-2 * math.pi**2 * variance / spacing**2) / float(steps.mean())
    return total


# ---- inversion of a rank test ----------------------------------------------------------------------------------------


def _inverted(pairs: _Pairs, level: float, spacing: float) -> Interval:
    """Return the ratios that a rank test does not reject."""
    edges = _edges(pairs)
    inside = np.sqrt(edges[:-1] * edges[1:])
    inside = np.concatenate([[edges[0] / 2], inside, [edges[-1] * 2]])
    differences, totals = _ranks(pairs, np.concatenate([inside, edges]))
    n = pairs.a.size
    paired = n >= PAIRED_FROM
    p = _exchange_p(differences) if paired else _permutation_p(totals, n)
    sums = differences.sum(1)
    estimate = _balance(sums[: inside.size], edges)
    low, high = _hull(p > 1 - level + 1e-12, inside.size, edges)
    widening = math.exp(_rounding_bias(pairs, spacing))
    name = "exchanges within seeds" if paired else "permutations of runs"
    return Interval(estimate, low / widening, high * widening, level, f"inverted rank test, {name}")


def _edges(pairs: _Pairs) -> Array:
    """Return the ratios at which ranks change, in increasing order."""
    a, b = pairs.a[np.isfinite(pairs.a)], pairs.b[np.isfinite(pairs.b)]
    return np.unique(np.concatenate([(a[:, None] / b).ravel(), a / pairs.budget, pairs.budget / b]))


def _ranks(pairs: _Pairs, ratios: Array) -> tuple[Array, Array]:
    """Return for each ratio the paired differences of mean ranks, and the ranks of all runs, a first."""
    from scipy import stats

    values = np.concatenate([pairs.a / ratios[:, None], np.broadcast_to(pairs.b, (ratios.size, pairs.b.size))], axis=1)
    cap = pairs.budget * np.minimum(1, 1 / ratios)[:, None]
    values = np.where(values > cap * (1 + 1e-12), np.inf, values)
    # Rounded, so that values equal up to rounding errors are ties.
    ranks = stats.rankdata(np.round(np.log(values), 10), axis=1)
    n = pairs.a.size
    return ranks[:, :n] - ranks[:, n:], ranks


def _permutation_p(ranks: Array, n: int) -> Array:
    """Return the p-values of the sum of the first n ranks over all assignments of the runs."""
    centered = ranks - ranks.mean(1, keepdims=True)
    sums = np.abs(centered @ splits(2 * n, n).T)
    return np.mean(sums >= np.abs(centered[:, :n].sum(1))[:, None] - 1e-9, axis=1)


def _exchange_p(differences: Array) -> Array:
    """Return the p-values of the sum of paired differences over all exchanges within pairs."""
    observed = np.abs(differences.sum(1))
    n = differences.shape[1]
    if n <= EXACT_UP_TO:
        return np.mean(np.abs(differences @ _signs(n)) >= observed[:, None] - 1e-9, axis=1)
    deviation = np.sqrt((differences**2).sum(1))
    z = np.divide(observed, deviation, out=np.zeros_like(observed), where=deviation > 0)
    return np.vectorize(math.erfc, otypes=[float])(z / math.sqrt(2))


@lru_cache(maxsize=8)
def _signs(n: int) -> Array:
    """Return all vectors of n signs, one in each column, up to a common sign."""
    return 1.0 - 2.0 * (np.arange(2 ** (n - 1))[None, :] >> np.arange(n)[:, None] & 1)


def _balance(sums: Array, edges: Array) -> float:
    """Return the ratio at which the rank sum of method a minus that of method b changes its sign."""
    positive, negative = np.flatnonzero(sums > 0), np.flatnonzero(sums < 0)
    low = edges[positive[-1]] if positive.size and positive[-1] < edges.size else math.inf if positive.size else 0.0
    high = edges[negative[0] - 1] if negative.size and negative[0] > 0 else 0.0 if negative.size else math.inf
    return math.sqrt(low * high) if low > 0 and high < math.inf else (math.inf if low > 0 else 0.0)


def _hull(accepted: Booleans, count: int, edges: Array) -> tuple[float, float]:
    """Return the smallest interval that contains the accepted ratios between and at the edges."""
    between, at = accepted[:count], accepted[count:]
    lows = np.concatenate([[0.0], edges])[between]
    highs = np.concatenate([edges, [math.inf]])[between]
    return (
        float(min(lows.min(initial=math.inf), edges[at].min(initial=math.inf))),
        float(max(highs.max(initial=0.0), edges[at].max(initial=0.0))),
    )
