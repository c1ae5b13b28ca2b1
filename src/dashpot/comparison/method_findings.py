"""Statistics of each method of a comparison."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

from dashpot.comparison.findings import MethodFinding
from dashpot.comparison.results import Array, Curve, JudgedRun, Results
from dashpot.comparison.score_matrix import ScoreMatrix
from dashpot.comparison.target_findings import evaluation_spacing, ratio_to_reference, survival
from dashpot.stats import Interval
from dashpot.stats.best_of import expected_best
from dashpot.stats.differences import mean_interval
from dashpot.stats.sensitivity import rate_sensitivity

COSTS = ("cpu_s", "wall_s", "memory_bytes", "state_bytes", "steps")
"""Fields of a run whose means over the finished runs are the cost of a method."""


def method_findings(
    results: Results, matrix: ScoreMatrix, groups: Sequence[int | None], reference: str | None
) -> tuple[MethodFinding, ...]:
    """Return the findings on each method, in the order of the matrix.

    Args:
        results: Results of the comparison.
        matrix: Their scores.
        groups: Tie group of each method with a score.
        reference: Method to which the steps to the target are related.
    """
    resolution = matrix.resolution
    spacing = evaluation_spacing(results)
    names = matrix.methods if reference is not None else ()
    ratios = {name: ratio_to_reference(results, name, str(reference), spacing) for name in names}
    ranks = [*groups, *[None] * (len(matrix.methods) - len(groups))]
    return tuple(
        _finding(results, name, matrix.values[k], ranks[k], ratios.get(name), resolution)
        for k, name in enumerate(matrix.methods)
    )


def _finding(
    results: Results, name: str, scores: Array, group: int | None, ratio: Interval | None, resolution: float
) -> MethodFinding:
    runs = results.of(name)
    known = scores[np.isfinite(scores)]
    median, curve = survival(results, name)
    return MethodFinding(
        name=name,
        mean=mean_interval(known, resolution=resolution) if len(known) else None,
        sd=float(np.std(known, ddof=1)) if len(known) > 1 else None,
        scores=tuple(scores.tolist()),
        group=group,
        steps_to_target=median,
        reached=sum(math.isfinite(run.steps_to_target) for run in runs),
        survival=curve,
        step_ratio=ratio,
        counts=dict(Counter(run.status for run in runs)),
        best_of=_best_of(results, name),
        sensitivity=_sensitivity(results, name),
        cost=_cost(runs),
    )


def _best_of(results: Results, name: str) -> tuple[Curve, Curve, Curve] | None:
    """Return the expected best score after each number of trials with its limits; None without a trial with a score."""
    ended = [trial.score for trial in results.trials if trial.method == name and trial.status != "unfinished"]
    found = expected_best([math.nan if score is None else score for score in ended], results.rule.direction)
    if found is None:
        return None
    trials = found.trials.astype(np.float64)
    return Curve(trials, found.mean), Curve(trials, found.low), Curve(trials, found.high)


def _sensitivity(results: Results, name: str) -> dict[float, Interval]:
    """Return the change of the score for each factor of the learning rate, paired by seed."""
    known = {(run.factor, run.seed): run.score for run in results.rate_runs if run.method == name}
    tuned = {run.seed: run.score for run in results.of(name)}
    seeds = sorted({seed for _, seed in known})
    scores = {factor: _array([known.get((factor, seed)) for seed in seeds]) for factor, _ in known}
    return rate_sensitivity(scores, _array([tuned.get(seed) for seed in seeds]))


def _array(scores: Sequence[float | None]) -> Array:
    """Return scores as an array, with NaN for missing ones and those that are not finite."""
    return np.array([score if score is not None and math.isfinite(score) else math.nan for score in scores])


def _cost(runs: Sequence[JudgedRun]) -> dict[str, float]:
    """Return the means over the finished runs of each cost that is known."""
    done = [run for run in runs if run.status == "done"]
    known = {name: [value for run in done if (value := getattr(run, name)) is not None] for name in COSTS}
    return {name: float(np.mean(values)) for name, values in known.items() if values}
