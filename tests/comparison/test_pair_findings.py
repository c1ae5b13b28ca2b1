"""Comparison of all pairs of methods of a study."""

from __future__ import annotations

import results_support

from dashpot.comparison.judge import judge
from dashpot.stats import pooling


def width(findings, names):
    pair = next(pair for pair in findings.pairs if {pair.better, pair.other} == names)
    return pair.difference.high - pair.difference.low


def test_diverged_method_does_not_widen_the_intervals_of_others(monkeypatch):
    """Scores of untrained models vary more than those of trained ones, which few seeds do not always reveal."""
    monkeypatch.setattr(pooling, "CLEAR_LEVEL", 0.0)
    given = {"methods": ("adamw", "adam", "sgd", "nag", "rmsprop"), "seeds": 3}
    statuses = {("rmsprop", 0): "diverged"}
    healthy, found, looks = (
        width(judge(results_support.results(**given, **more)), {"adamw", "nag"})
        for more in ({}, {"statuses": statuses}, {"statuses": statuses, "changes": {"looks": (3, 5)}})
    )
    assert found < 1.5 * healthy  # the pooled variance of four methods instead of five, and a larger q
    assert looks > 3 * found
