"""Comparison of all pairs of methods."""

from __future__ import annotations

import math

import numpy as np

from dashpot.comparison.findings import PairFinding
from dashpot.comparison.results import Array, Results
from dashpot.comparison.score_matrix import ScoreMatrix
from dashpot.comparison.simple_stats import all_pairs, verdict, verdict_sentence
from dashpot.stats import Interval

LEVEL = 0.95


def pair_findings(results: Results, matrix: ScoreMatrix) -> tuple[tuple[PairFinding, ...], Array]:
    """Compare all pairs of methods with scores.

    Args:
        results: Results of the comparison.
        matrix: Their scores.

    Returns:
        The pairs, in the order of the methods, and a symmetric matrix with 1 for each separated pair, else 0.
    """
    count, sign = matrix.scored, results.rule.sign
    found = all_pairs(matrix.values[:count], LEVEL)
    separated = np.zeros((count, count))
    pairs = []
    for i in range(count):
        for j in range(i + 1, count):
            first, second = (j, i) if _reversed(found.intervals[i][j], sign) else (i, j)
            interval = found.intervals[first][second] or _unknown(matrix.values[first], matrix.values[second])
            kind = verdict(interval, results.rule.margin)
            separated[i, j] = separated[j, i] = interval.excludes(0.0)
            better, other = matrix.methods[first], matrix.methods[second]
            sentence = verdict_sentence(better, other, results.rule.metric, interval, kind)
            pairs.append(
                PairFinding(better, other, interval, found.p[first][second], kind.kind, kind.more_seeds, sentence)
            )
    return tuple(pairs), separated


def _reversed(interval: Interval | None, sign: float) -> bool:
    """Return whether the method of the lower rank has the better paired scores, which needs missing runs."""
    return interval is not None and sign * interval.estimate < 0


def _unknown(first: Array, second: Array) -> Interval:
    """Return the difference of the means, without limits, of two methods that share fewer than two seeds."""
    return Interval(float(np.nanmean(first) - np.nanmean(second)), -math.inf, math.inf, LEVEL)
