"""Ratio of the steps to a target of two methods, with a confidence interval for runs with and without misses."""

from __future__ import annotations

import math
from collections.abc import Callable
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

CANDIDATES = 65
"""Number of ratios of the first search."""

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
    hits = [steps[np.isfinite(steps)] for steps in (pairs.a, pairs.b)]
    hits = [steps for steps in hits if steps.size]
    if spacing == 0:
        return 0.0
    # Equal relative deviations in both methods, as in the model, without the variance of the rounding.
    degrees = sum(steps.size - 1 for steps in hits)
    variance = sum(float(((steps / steps.mean() - 1) ** 2).sum()) for steps in hits) / max(degrees, 1)
    total = 0.0
    for steps in hits:
        grid = spacing / float(steps.mean())
        total += grid / 2 * math.exp(-2 * math.pi**2 * max(variance / grid**2 - 1 / 12, 0.0))
    return total


# ---- inversion of a rank test ----------------------------------------------------------------------------------------


def _inverted(pairs: _Pairs, level: float, spacing: float) -> Interval:
    """Return the ratios that a rank test does not reject."""
    n = pairs.a.size
    paired = n >= PAIRED_FROM

    def advantage(ratios: Array) -> Array:
        return _scores(pairs, ratios, spacing)[:, :n].sum(1)

    def accepted(ratios: Array) -> Booleans:
        scores = _scores(pairs, ratios, spacing)
        p = _exchange_p(scores[:, :n] - scores[:, n:]) if paired else _permutation_p(scores, n)
        return p > 1 - level + 1e-12

    ratios = _candidates(pairs, spacing)
    # The sum of the scores of method a decreases with the ratio.
    _, above = _ends(lambda x: advantage(x) > 1e-9, ratios)
    below, _ = _ends(lambda x: advantage(x) < -1e-9, ratios)
    estimate = _middle(above, below)
    ratios = np.union1d(ratios, [estimate] if 0 < estimate < math.inf else [])
    low, high = _ends(lambda x: accepted(x) | (x == estimate), ratios)
    widening = math.exp(_rounding_bias(pairs, spacing))
    name = "exchanges within seeds" if paired else "permutations of runs"
    return Interval(estimate, low / widening, high * widening, level, f"inverted rank test, {name}")


def _candidates(pairs: _Pairs, spacing: float) -> Array:
    """Return ratios from below to above all ratios at which scores change."""
    hits = np.concatenate([x[np.isfinite(x)] for x in (pairs.a, pairs.b)])
    smallest = max(float(hits.min()) - spacing / 2, spacing / 8) or float(hits.min())
    largest = 2 * max(pairs.budget, float(hits.max())) / smallest
    return np.geomspace(1 / largest, largest, CANDIDATES)


def _ends(test: Callable[[Array], Booleans], ratios: Array) -> tuple[float, float]:
    """Return the smallest and the largest ratio that satisfies a test; 0 or inf at the ends of `ratios`.

    A test without such ratios has the ends inf and 0.
    """
    passed = test(ratios)
    if not passed.any():
        return math.inf, 0.0
    first, last = int(np.argmax(passed)), passed.size - 1 - int(np.argmax(passed[::-1]))
    low = 0.0 if first == 0 else _boundary(test, float(ratios[first - 1]), float(ratios[first]))
    high = math.inf if last == passed.size - 1 else _boundary(test, float(ratios[last + 1]), float(ratios[last]))
    return low, high


def _boundary(test: Callable[[Array], Booleans], outside: float, inside: float) -> float:
    """Return the boundary between a ratio that fails a test and one that satisfies it, by repeated subdivision."""
    for _ in range(4):  # intervals of 16 parts: a relative width of 1e-6
        points = np.geomspace(outside, inside, 17)
        first = int(np.argmax(np.append(test(points[1:-1]), True))) + 1
        outside, inside = float(points[first - 1]), float(points[first])
    return inside


def _middle(above: float, below: float) -> float:
    """Return the ratio between those at which method a is slower and those at which it is faster than method b."""
    if above == 0:
        return 0.0
    return math.sqrt(above * below) if below < math.inf and above < math.inf else math.inf


def _scores(pairs: _Pairs, ratios: Array, spacing: float) -> Array:
    """Return Gehan's scores of a/ratio and b for each ratio: the number of smaller minus that of larger values.

    Steps are uniformly distributed over the interval between evaluations; scores are expected values.
    """
    a, of_a, count_a = np.unique(pairs.a, return_inverse=True, return_counts=True)
    b, of_b, count_b = np.unique(pairs.b, return_inverse=True, return_counts=True)
    scale = np.ones((ratios.size, a.size + b.size))
    scale[:, : a.size] /= ratios[:, None]
    values, half, counts = np.concatenate([a, b]) * scale, spacing / 2 * scale, np.concatenate([count_a, count_b])
    cap = pairs.budget * np.minimum(1, 1 / ratios)[:, None, None]
    smaller = _smaller(values[:, :, None], values[:, None, :], half[:, :, None], half[:, None, :], cap)
    scores = counts @ smaller - smaller @ counts
    return scores[:, np.concatenate([of_a, a.size + of_b])]


def _smaller(x: Array, y: Array, x_half: Array, y_half: Array, cap: Array) -> Array:
    """Return the probability that x < min(y, cap), for uniform distributions with these centers and half widths."""
    if not x_half.any():
        # Relative tolerance for ties: quotients have rounding errors.
        return ((x < y * (1 - 1e-12)) & (x <= cap * (1 + 1e-12))).astype(float)
    finite = np.where(np.isfinite(x), x, 0.0)
    low = finite - x_half
    end = np.clip(cap, low, finite + x_half)

    def integral(at: Array) -> Array:
        """Integral of the distribution function of y."""
        start, stop = y - y_half, y + y_half
        with np.errstate(invalid="ignore"):
            found = (np.maximum(at - start, 0) ** 2 - np.maximum(at - stop, 0) ** 2) / (4 * y_half)
        return np.where(np.isfinite(y), found, 0.0)

    return np.where(np.isfinite(x), (end - low - integral(end) + integral(low)) / (2 * x_half), 0.0)


def _permutation_p(scores: Array, n: int) -> Array:
    """Return the p-values of the sum of the first n scores over all assignments of the runs."""
    sums = np.abs(scores @ splits(2 * n, n).T)
    return np.mean(sums >= np.abs(scores[:, :n].sum(1))[:, None] - 1e-9, axis=1)


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
