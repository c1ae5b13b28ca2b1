"""Intervals of means of rounded scores, such as accuracies on few images."""

from __future__ import annotations

import math

import numpy as np
import pytest
import results_support

from dashpot.comparison.judge import judge
from dashpot.comparison.results import JudgedRun, Results, ScoreRule
from dashpot.comparison.score_matrix import score_matrix


def results(*rows):
    names = tuple(f"method-{k}" for k in range(len(rows)))
    runs = tuple(JudgedRun(a, s, "done", x) for a, row in zip(names, rows, strict=True) for s, x in enumerate(row))
    return Results("digits", "", ScoreRule("accuracy", "max", "test"), names, tuple(range(len(rows[0]))), runs)


def test_equal_rounded_scores_have_the_interval_of_rounding():
    found = judge(results([288 / 297] * 3, [285 / 297, 286 / 297, 288 / 297])).methods[0].mean
    assert found.high - found.estimate == pytest.approx(4.303 / 297 / math.sqrt(36), rel=1e-3)  # t .975, 2 degrees


@pytest.mark.parametrize("rows", [([0.5] * 3, [0.9] * 3), ([0.5] * 3,)])
def test_scores_that_never_vary_are_exact(rows):
    for method in judge(results(*rows)).methods:
        assert method.mean.low == method.mean.high


def test_resolution_is_the_smallest_distance():
    matrix = score_matrix(results([3 / 297, 9 / 297], [4 / 297, math.nan]))
    assert matrix.resolution == pytest.approx(1 / 297)
    assert 0 < score_matrix(results_support.results()).resolution < np.inf
