"""Statistics of each method of a comparison."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

from dashpot.comparison.findings import MethodFinding
from dashpot.comparison.results import Array, JudgedRun, Results
from dashpot.comparison.score_matrix import ScoreMatrix
from dashpot.comparison.simple_stats import mean_interval
from dashpot.stats import Interval

COSTS = ("cpu_s", "wall_s", "memory_bytes", "state_bytes", "steps")
"""Fields of a run whose means over the finished runs are the cost of a method."""


def method_findings(
    results: Results, matrix: ScoreMatrix, groups: Sequence[int], reference: str | None
) -> tuple[MethodFinding, ...]:
    """Return the findings on each method, in the order of the matrix.

    Args:
        results: Results of the comparison.
        matrix: Their scores.
        groups: Tie group of each method with a score.
        reference: Method to which the steps to the target are related.
    """
    ranks = [*groups, *[None] * (len(matrix.methods) - len(groups))]
    return tuple(
        _finding(results, name, matrix.values[k], ranks[k], reference) for k, name in enumerate(matrix.methods)
    )


def _finding(results: Results, name: str, scores: Array, group: int | None, reference: str | None) -> MethodFinding:
    runs = results.of(name)
    known = scores[np.isfinite(scores)]
    return MethodFinding(
        name=name,
        mean=mean_interval(known) if len(known) else None,
        sd=float(np.std(known, ddof=1)) if len(known) > 1 else None,
        scores=tuple(scores.tolist()),
        group=group,
        steps_to_target=None if results.rule.target is None else _median_steps(runs),
        reached=sum(math.isfinite(run.steps_to_target) for run in runs),
        survival=None,
        step_ratio=None,
        counts=dict(Counter(run.status for run in runs)),
        best_of=None,
        sensitivity=_sensitivity(results, name),
        cost=_cost(runs),
    )


def _median_steps(runs: Sequence[JudgedRun]) -> float | None:
    steps = sorted(run.steps_to_target for run in runs if not math.isnan(run.steps_to_target))
    return steps[len(steps) // 2] if steps else None


def _sensitivity(results: Results, name: str) -> dict[float, Interval]:
    """Return the change of the score for each factor of the learning rate, paired by seed."""
    tuned = {run.seed: run.score for run in results.of(name) if run.score is not None}
    changes: dict[float, list[float]] = {}
    for run in results.rate_runs:
        if run.method == name and run.score is not None and run.seed in tuned:
            changes.setdefault(run.factor, []).append(run.score - tuned[run.seed])
    return {factor: mean_interval(np.array(changes[factor])) for factor in sorted(changes)}


def _cost(runs: Sequence[JudgedRun]) -> dict[str, float]:
    """Return the means over the finished runs of each cost that is known."""
    done = [run for run in runs if run.status == "done"]
    known = {name: [value for run in done if (value := getattr(run, name)) is not None] for name in COSTS}
    return {name: float(np.mean(values)) for name, values in known.items() if values}
