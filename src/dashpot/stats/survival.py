"""Survival curves of the steps to a target, with misses censored at the end of the run, and the log-rank test."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt

from dashpot.constraints import check
from dashpot.stats.times import LEVEL, Array, Times, normal_quantile, present, times

MOST_SPLITS = 200_000
"""Largest number of assignments of runs to two methods that are enumerated; 10 seeds have 184 756."""


@dataclass(frozen=True)
class SurvivalCurve:
    """Share of runs that have not reached the target, as a step function.

    Attributes:
        steps: Steps at which the curve changes, from 0, and the largest number of steps observed.
        share: Share from each step (inclusive) to the next, in [0, 1].
        low: Lower pointwise confidence limits.
        high: Upper pointwise confidence limits.
        level: Confidence level.
    """

    steps: Array
    share: Array
    low: Array
    high: Array
    level: float = 0.95


def survival_curve(steps: Any, reached: Any, *, level: float = 0.95) -> SurvivalCurve:
    """Estimate the share of runs that have not reached the target, by Kaplan and Meier.

    S(t) is the product of 1 - d/n over all steps <= t, with d runs of n at risk that reach the target at that step.
    Limits use the variance of log(-log S) by Greenwood; where S is 0 or 1, which has no variance, they are the exact
    binomial limits of Clopper and Pearson for the runs without those censored before.

    Args:
        steps: Steps to the target, or of the whole run if it missed the target; >= 0; NaN for a missing run.
        reached: Whether each run reached the target.
        level: Confidence level; in (0, 1).

    Returns:
        The curve; without runs, one of NaN limits at step 0.

    Raises:
        ArgumentError: If the lengths differ, or a number of steps is negative or infinite.

    Source: Kaplan and Meier, J. Am. Stat. Assoc. 53 (1958) 457; Kalbfleisch and Prentice, The Statistical Analysis of
        Failure Time Data, 2002, 1.4.

    Example:
        >>> curve = survival_curve([100, 200, 200, 400], [True, True, True, False])
        >>> curve.steps.tolist(), curve.share.tolist()
        ([0.0, 100.0, 200.0, 400.0], [1.0, 0.75, 0.25, 0.25])
    """
    check("survival_curve", "level", level, LEVEL)
    found = present(times("survival_curve", steps, reached))
    if not found.steps.size:
        nan = np.array([math.nan])
        return SurvivalCurve(np.zeros(1), np.ones(1), nan, nan, level)
    at, share, spread = _kaplan_meier(found)
    censored = ((found.steps[None, :] < at[:, None]) & ~found.reached[None, :]).sum(1)
    low, high = _limits(share, spread, found.steps.size - censored, level)
    return SurvivalCurve(at, share, low, high, level)


def median_steps(steps: Any, reached: Any) -> float:
    """Return the median number of steps to the target by Kaplan and Meier; inf if at most half of the runs reach it.

    If S is exactly .5 between two steps, the median is their mean, as for a sample without misses.

    Args:
        steps: Steps to the target, or of the whole run if it missed the target; >= 0; NaN for a missing run.
        reached: Whether each run reached the target.

    Returns:
        The median; NaN without runs.

    Raises:
        ArgumentError: If the lengths differ, or a number of steps is negative or infinite.

    Example:
        >>> median_steps([100, 200, 300], [True, True, False]), median_steps([100, 200], [True, False])
        (200.0, inf)
    """
    found = present(times("median_steps", steps, reached))
    if not found.steps.size:
        return math.nan
    at, share, _ = _kaplan_meier(found)
    below = at[share < 0.5 - 1e-9]  # the product of shares has rounding errors of 1e-16 each
    reaches = at[share <= 0.5 + 1e-9]
    return (float(reaches[0]) + float(below[0])) / 2 if below.size else math.inf


def log_rank(a_steps: Any, a_reached: Any, b_steps: Any, b_reached: Any) -> float | None:
    """Return the two-sided p-value of the log-rank test for equal distributions of the steps to the target.

    The statistic is the sum over the first group of the number of targets reached minus the number expected from both
    groups. Up to `MOST_SPLITS` assignments of the runs to the groups (10 seeds each) the p-value is that of the exact
    permutation test, which is valid for every number of ties and misses; above, that of the normal approximation of
    scipy. Runs of both groups need equal budgets. Results of the same seed may be positively correlated, which makes
    the test conservative.

    Args:
        a_steps: Steps of the first group, or of the whole run if it missed the target; >= 0; NaN for a missing run.
        a_reached: Whether each run of the first group reached the target.
        b_steps: Steps of the second group.
        b_reached: Whether each run of the second group reached the target.

    Returns:
        The p-value, or None if a group has fewer than two runs or no run reaches the target.

    Raises:
        ArgumentError: If lengths differ, or a number of steps is negative or infinite.

    Source: Peto and Peto, J. R. Stat. Soc. A 135 (1972) 185.

    Example:
        >>> steps, reached = [1, 2, 3, 4], [True] * 4
        >>> round(log_rank(steps, reached, [9] * 4, [False] * 4), 4), log_rank(steps, reached, steps, reached)
        (0.0286, 1.0)
    """
    a = present(times("log_rank", a_steps, a_reached))
    b = present(times("log_rank", b_steps, b_reached))
    if min(a.steps.size, b.steps.size) < 2 or not (a.reached.any() or b.reached.any()):
        return None
    if math.comb(a.steps.size + b.steps.size, a.steps.size) > MOST_SPLITS:
        return _asymptotic(a, b)
    scores = log_rank_scores(Times(np.concatenate([a.steps, b.steps]), np.concatenate([a.reached, b.reached])))
    sums = splits(scores.size, a.steps.size) @ scores
    observed = abs(scores[: a.steps.size].sum())
    return float(np.mean(np.abs(sums) >= observed - 1e-9))  # rounding errors of sums of 20 scores are below 1e-14


def log_rank_scores(found: Times) -> Array:
    """Return 1 or 0 for each run (target reached or not) minus the cumulative hazard at its steps by Nelson and Aalen.

    The scores have sum 0.

    >>> log_rank_scores(Times(np.array([1.0, 2.0]), np.array([True, False]))).tolist()
    [0.5, -0.5]
    """
    at = np.unique(found.steps)
    risk = (found.steps[None, :] >= at[:, None]).sum(1)
    events = ((found.steps[None, :] == at[:, None]) & found.reached[None, :]).sum(1)
    hazard = np.cumsum(events / risk)
    return found.reached - hazard[np.searchsorted(at, found.steps)]


@lru_cache(maxsize=8)
def splits(total: int, first: int) -> Array:
    """Return a row for each choice of `first` of `total` runs, with 1 for chosen runs.

    >>> splits(3, 1).tolist()
    [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
    """
    chosen = np.array(list(combinations(range(total), first)), dtype=np.intp).reshape(math.comb(total, first), first)
    rows = np.zeros((len(chosen), total))
    np.put_along_axis(rows, chosen, 1.0, axis=1)
    return rows


def _asymptotic(a: Times, b: Times) -> float:
    from scipy import stats

    first, second = (stats.CensoredData(uncensored=x.steps[x.reached], right=x.steps[~x.reached]) for x in (a, b))
    with np.errstate(invalid="ignore"):
        p = float(stats.logrank(first, second).pvalue)
    return 1.0 if np.isnan(p) else p  # no variance: all runs reach the target at one step


def _kaplan_meier(found: Times) -> tuple[Array, Array, Array]:
    """Return steps, S, and Greenwood's sum of d/(n (n - d))."""
    at = np.unique(np.concatenate([[0.0], found.steps[found.reached], [found.steps.max()]]))
    risk = (found.steps[None, :] >= at[:, None]).sum(1)
    events = ((found.steps[None, :] == at[:, None]) & found.reached[None, :]).sum(1)
    share = np.cumprod(1 - events / risk)
    with np.errstate(divide="ignore"):
        spread = np.cumsum(np.where(events > 0, events / (risk * (risk - events)), 0.0))
    return at, share, spread


def _limits(share: Array, spread: Array, runs: npt.NDArray[np.int_], level: float) -> tuple[Array, Array]:
    inner = (share > 0) & (share < 1)
    low, high = np.zeros_like(share), np.ones_like(share)
    center = np.log(-np.log(share[inner]))
    half = normal_quantile(level) * np.sqrt(spread[inner]) / np.abs(np.log(share[inner]))
    low[inner], high[inner] = np.exp(-np.exp(center + half)), np.exp(-np.exp(center - half))
    one = ((1 - level) / 2) ** (1 / np.maximum(runs, 1))
    low[share == 1], high[share == 0] = one[share == 1], 1 - one[share == 0]
    return np.minimum.accumulate(low), np.minimum.accumulate(high)
