"""Student-t intervals of paired differences, corrected for the number of pairs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from dashpot.comparison.results import Array
from dashpot.comparison.score_text import score_text
from dashpot.stats import Interval


@dataclass(frozen=True)
class AllPairs:
    """Comparison of all pairs."""

    intervals: list[list[Interval | None]]
    p: list[list[float | None]]
    method: str


@dataclass(frozen=True)
class Verdict:
    """Verdict on a pair."""

    kind: str
    more_seeds: int | None


def mean_interval(scores: Array, level: float = 0.95) -> Interval:
    """Return the mean with its interval."""
    mean, n = float(np.mean(scores)), len(scores)
    if n < 2:
        return Interval(mean, -math.inf, math.inf, level, "Student t")
    half = float(stats.t.ppf((1 + level) / 2, n - 1) * np.std(scores, ddof=1) / math.sqrt(n))
    return Interval(mean, mean - half, mean + half, level, "Student t")


def all_pairs(scores: Array, level: float = 0.95) -> AllPairs:
    """Compare all pairs of rows."""
    n = len(scores)
    pairs = max(1, n * (n - 1) // 2)
    made = AllPairs([[None] * n for _ in range(n)], [[None] * n for _ in range(n)], "Student t with Bonferroni")
    for i in range(n):
        for j in range(n):
            d = scores[i] - scores[j]
            d = d[np.isfinite(d)]
            if i == j or len(d) < 2:
                continue
            made.intervals[i][j] = mean_interval(d, 1 - (1 - level) / pairs)
            sd = np.std(d, ddof=1)
            p = (
                1.0
                if not d.any()
                else 0.0
                if sd == 0
                else 2 * float(stats.t.sf(abs(np.mean(d)) * math.sqrt(len(d)) / sd, len(d) - 1))
            )
            made.p[i][j] = min(1.0, pairs * p)
    return made


def tie_groups(order: Sequence[int], separated: Array) -> tuple[int, ...]:
    """Return the tie group of each method."""
    groups, leader, group = [], 0, 1
    for k in range(len(order)):
        if separated[order[leader], order[k]]:
            leader, group = k, group + 1
        groups.append(group)
    return tuple(groups)


def verdict(interval: Interval | None, margin: float | None) -> Verdict:
    """Return the verdict on a pair."""
    if interval is None:
        return Verdict("undecided", None)
    if margin is not None and interval.inside(-margin, margin):
        return Verdict("equivalent", None)
    return Verdict("better" if interval.excludes(0) else "undecided", None)


def verdict_sentence(better: str, other: str, metric: str, interval: Interval | None, found: Verdict) -> str:
    """Return the sentence of a verdict."""
    if interval is None:
        return f"{better} and {other}: undecided."
    limits = f"95 % interval {score_text(interval.low)} to {score_text(interval.high)}"
    return f"{better} and {other}: {found.kind} ({metric} {score_text(interval.estimate)}, {limits})."
