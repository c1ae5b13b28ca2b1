"""Scores of diverged runs without an evaluation of the untrained model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from dashpot.comparison.results import Curve, JudgedRun, ScoreRule

MOST_NAMED = 3
"""Number of runs that a remark names."""


def with_diverged_scores(runs: Sequence[JudgedRun], rule: ScoreRule, curve: str) -> list[JudgedRun]:
    """Return the runs with scores of the diverged ones that have none.

    The score is the first value of the metric, and if that is missing or not finite, the worst first value of all runs.
    The run counts as as long as the longest one.

    Args:
        runs: Runs of a comparison, at least one.
        rule: Metric that ranks the methods.
        curve: Name of the curve of the metric.
    """
    last = max(run.steps for run in runs)
    first = [_first(run.curves.get(curve)) for run in runs]
    known = [value for value in first if value is not None]
    worst = min(known, key=lambda value: rule.sign * value) if known else None
    return [
        replace(run, score=worst if own is None else own, steps=last)
        if run.status == "diverged" and run.score is None
        else run
        for run, own in zip(runs, first, strict=True)
    ]


def _first(curve: Curve | None) -> float | None:
    """Return the first value of a curve if it is finite."""
    return float(curve.values[0]) if curve is not None and math.isfinite(curve.values[0]) else None


def diverged_remarks(runs: Sequence[JudgedRun]) -> tuple[str, ...]:
    """Return a remark on the diverged runs without an evaluation at step 0, if there are any."""
    late = [run for run in runs if run.status == "diverged" and not _from_start(run)]
    if not late:
        return ()
    names = ", ".join(f"{run.method} seed {run.seed}" for run in late[:MOST_NAMED])
    more = f" and {len(late) - MOST_NAMED} more" if len(late) > MOST_NAMED else ""
    return (f"Without a value at step 0, the score of a diverged run is its first value: {names}{more}.",)


def _from_start(run: JudgedRun) -> bool:
    return any(curve.steps[0] == 0 for curve in run.curves.values() if len(curve.steps))
