"""Comparison of all pairs of methods."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations

import numpy as np
import numpy.typing as npt

from dashpot.comparison.findings import PairFinding
from dashpot.comparison.results import Array, Results, ScoreRule
from dashpot.comparison.score_matrix import ScoreMatrix
from dashpot.comparison.target_findings import log_rank_tests
from dashpot.stats import Interval
from dashpot.stats.all_pairs import AllPairs, all_pairs
from dashpot.stats.verdicts import verdict, verdict_sentence


def pair_findings(
    results: Results, matrix: ScoreMatrix, level: float
) -> tuple[tuple[PairFinding, ...], npt.NDArray[np.bool_]]:
    """Compare all pairs of methods with scores.

    Args:
        results: Results of the comparison.
        matrix: Their scores.
        level: Simultaneous confidence level.

    Returns:
        The pairs, in the order of the methods, and a symmetric matrix of the pairs in which one method is better. Two
        methods that are equivalent within the margin are not, even if the sign of their difference is known.
    """
    count = matrix.scored
    separated = np.zeros((count, count), dtype=bool)
    if count < 2:
        return (), separated
    compared = all_pairs(matrix.values[:count], level, apart=_diverged(results, matrix.methods[:count]))
    log_rank = log_rank_tests(results, matrix.methods[:count])
    pairs = []
    for i, j in combinations(range(count), 2):
        names = matrix.methods[i], matrix.methods[j]
        pair = _pair(compared, (i, j), matrix, results.rule, log_rank.get(names))
        separated[i, j] = separated[j, i] = pair.verdict == "better"
        pairs.append(pair)
    return tuple(pairs), separated


def _diverged(results: Results, methods: Sequence[str]) -> list[int]:
    """Return the indices of methods with diverged runs, whose scores have a variance of their own.

    Group-sequential studies end by their scores alone (`looks.is_decided`), and are judged by the same intervals.
    """
    diverged = {run.method for run in results.runs if run.status == "diverged"}
    return [] if results.looks else [i for i, method in enumerate(methods) if method in diverged]


def _pair(
    compared: AllPairs, pair: tuple[int, int], matrix: ScoreMatrix, rule: ScoreRule, log_rank_p: float | None
) -> PairFinding:
    first, second = pair
    interval = compared.intervals[first][second]
    if interval is not None and rule.sign * interval.estimate < 0:  # possible if runs are missing
        first, second = second, first
        interval = compared.intervals[first][second]
    better, other = matrix.methods[first], matrix.methods[second]
    p, margin = compared.p[first][second], rule.margin
    found = verdict(
        interval,
        margin,
        direction=rule.direction,
        p=p,
        sd=compared.sd[first][second],
        seeds=compared.seeds[first][second],
        methods=matrix.scored,
    )
    sentence = verdict_sentence(better, other, rule.metric, interval, found, margin, direction=rule.direction)
    if interval is None:
        interval = _unpaired(matrix.values[first], matrix.values[second], compared.level)
    return PairFinding(better, other, interval, p, found.kind, found.more_seeds, sentence, log_rank_p)


def _unpaired(first: Array, second: Array, level: float) -> Interval:
    """Return the difference of the means, without limits, of two methods without a common seed."""
    return Interval(float(np.nanmean(first) - np.nanmean(second)), -math.inf, math.inf, level, "no common seed")
