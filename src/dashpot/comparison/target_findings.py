"""Statistics of the steps to the target."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from dashpot.comparison.results import Array, Curve, Results
from dashpot.stats import Interval
from dashpot.stats.multiplicity import holm
from dashpot.stats.step_ratio import step_ratio
from dashpot.stats.survival import log_rank, median_steps, survival_curve

MOST_TESTS = 300
"""Largest number of pairs with a log-rank test, each of which takes milliseconds."""


class StepsToTarget(NamedTuple):
    """Steps to the target by seed, or of the whole run for a miss; NaN without a run that has ended."""

    steps: Array
    reached: npt.NDArray[np.bool_]


def steps_to_target(results: Results, method: str) -> StepsToTarget:
    """Return the steps to the target of a method, in the order of the seeds of its results."""
    runs = {run.seed: run for run in results.of(method)}
    seeds = dict.fromkeys([*results.seeds, *(run.seed for run in results.runs)])
    steps, reached = np.full(len(seeds), math.nan), np.zeros(len(seeds), dtype=bool)
    for k, seed in enumerate(seeds):
        run = runs.get(seed)
        if run is not None and not math.isnan(run.steps_to_target):
            reached[k] = math.isfinite(run.steps_to_target)
            steps[k] = run.steps_to_target if reached[k] else run.steps
    return StepsToTarget(steps, reached)


def survival(results: Results, method: str) -> tuple[float | None, Curve | None]:
    """Return the median steps to the target and the share of runs without it over steps; None without ended runs."""
    found = steps_to_target(results, method)
    if np.isnan(found.steps).all():
        return None, None
    curve = survival_curve(*found)
    return median_steps(*found), Curve(curve.steps, curve.share)


def ratio_to_reference(results: Results, method: str, reference: str, spacing: float) -> Interval | None:
    """Return the steps to the target relative to those of the reference, with a 95 % interval.

    Args:
        results: Results of the comparison.
        method: Method in the numerator.
        reference: Method in the denominator.
        spacing: Number of steps between evaluations, from `evaluation_spacing`.
    """
    if method == reference or results.rule.target is None:
        return None
    return step_ratio(*steps_to_target(results, method), *steps_to_target(results, reference), spacing=spacing)


def evaluation_spacing(results: Results) -> float:
    """Return the median number of steps between evaluations of the metric of the target; 0 if unknown."""
    rule = results.rule
    names = (f"validation {rule.metric}", f"{rule.split} {rule.metric}")
    gaps = [np.diff(run.curves[name].steps) for run in results.runs for name in names if name in run.curves]
    known = np.concatenate(gaps) if gaps else np.zeros(0)
    return float(np.median(known)) if known.size else 0.0


def log_rank_tests(results: Results, methods: Sequence[str]) -> dict[tuple[str, str], float]:
    """Return the p-values of the log-rank tests of all pairs, adjusted by Holm's method.

    Args:
        results: Results of the comparison.
        methods: Methods to compare, in the order of the pairs.

    Returns:
        P-values by pair; empty without a target, and for more than `MOST_TESTS` pairs.
    """
    pairs = list(combinations(methods, 2))
    if results.rule.target is None or len(pairs) > MOST_TESTS:
        return {}
    found = {name: steps_to_target(results, name) for name in methods}
    tests = {pair: log_rank(*found[pair[0]], *found[pair[1]]) for pair in pairs}
    known = {pair: p for pair, p in tests.items() if p is not None}
    return dict(zip(known, holm(list(known.values())).tolist(), strict=True))
