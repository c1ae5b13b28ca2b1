"""Training studies of experiments: runs by the protocol of comparisons, and findings from their joint intervals."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dashpot.errors import DataError, RunError
from dashpot.experiments.progress import report_progress
from dashpot.experiments.result import Finding
from dashpot.runs.signals import Interrupted

if TYPE_CHECKING:
    from dashpot.comparison.findings import Findings
    from dashpot.runs.study import Study
    from dashpot.stats import Interval
    from dashpot.tasks import Task

UNDECIDED = "undecided: the joint 95 % interval contains the limit"
"""Limits of a finding whose interval does not exclude the opposite."""


def study_findings(study: Study, label: str = "runs") -> Findings:
    """Execute a study in a temporary folder and in this process, and return the findings of the comparison.

    Runs with the same seed have the same initial weights, batches and noise. The intervals of all differences hold
    jointly with 95 % confidence. A diverged run has the score of its untrained model.

    Args:
        study: Study with at least two seeds.
        label: Name of the study in progress reports.

    Returns:
        Scores by method and seed, differences of all pairs with joint intervals, and verdicts.

    Raises:
        RunError: If a run has failed, or optuna or scipy is not installed.
        Interrupted: If Ctrl-C was pressed or SIGTERM received; nothing is kept.
    """
    from dashpot.comparison.judge import judge
    from dashpot.comparison.read_results import results_of_folder
    from dashpot.comparison.runner import run_study
    from dashpot.experiments.study_progress import ReportedProgress

    with tempfile.TemporaryDirectory(prefix="dashpot-study-") as temporary:
        folder = Path(temporary) / "study"
        try:
            run_study(study, folder, progress=ReportedProgress(label))
        except Interrupted as stop:
            raise Interrupted("Stopped. An experiment cannot be resumed.", stop.code) from None
        found = judge(results_of_folder(folder))
    for run in found.results.runs:
        if run.status not in {"done", "diverged"}:
            raise RunError(f"The run of {run.method} with seed {run.seed} has failed: {run.error or run.status}.")
    report_progress("statistics")
    return found


def score(findings: Findings, method: str) -> Interval:
    """Return the mean score of a method with its 95 % interval over seeds.

    Raises:
        RunError: If the method has no score.
    """
    mean = next((item.mean for item in findings.methods if item.name == method), None)
    if mean is None:
        raise RunError(f"The study has no score of {method}.")
    return mean


def scores(findings: Findings, method: str) -> tuple[float, ...]:
    """Return the scores of a method by seed, in the order of `findings.seeds`."""
    return next(item.scores for item in findings.methods if item.name == method)


def difference(findings: Findings, first: str, second: str) -> Interval:
    """Return the score of `first` minus the score of `second`, with its joint 95 % interval.

    The joint confidence is that of all pairs of methods of the study.
    """
    from dashpot.stats.interval import reverse

    pair = next(pair for pair in findings.pairs if {pair.better, pair.other} == {first, second})
    return pair.difference if pair.better == first else reverse(pair.difference)


def joint_differences(scores: Mapping[str, Sequence[float]]) -> dict[tuple[str, str], Interval]:
    """Return the differences of all pairs of methods with joint 95 % intervals, for scores of several studies.

    Args:
        scores: Scores by method, in the order of the same seeds, at least two.

    Returns:
        For the methods i and j of both orders, the score of i minus the score of j.

    >>> found = joint_differences({"a": [0.9, 0.92, 0.91], "b": [0.8, 0.81, 0.82]})
    >>> round(found["a", "b"].estimate, 3), found["a", "b"].excludes(0.0), round(found["b", "a"].estimate, 3)
    (0.1, True, -0.1)
    """
    from dashpot.stats.all_pairs import all_pairs

    names = list(scores)
    table = all_pairs([list(scores[name]) for name in names]).intervals
    found: dict[tuple[str, str], Interval] = {}
    for i, j in combinations(range(len(names)), 2):
        for first, second in ((i, j), (j, i)):
            interval = table[first][second]
            if interval is None:
                raise RunError(f"{names[first]} and {names[second]} have no common seed.")
            found[names[first], names[second]] = interval
    return found


def interval_finding(
    name: str,
    statement: str,
    interval: Interval,
    *,
    predicted: float | None = None,
    holds: bool = True,
    limits: str = "",
    claim: int = 0,
) -> Finding:
    """Return the finding on a score or a difference with its interval.

    Args:
        name: Identifier of the finding.
        statement: Measured quantity in words, with its unit.
        interval: Estimate and limits.
        predicted: Prediction.
        holds: Whether the measurement supports the claim.
        limits: Condition under which it holds.
        claim: Index of the claim.
    """
    return Finding(
        name, statement, interval.estimate, interval.low, interval.high, predicted, holds, limits=limits, claim=claim
    )


def image_task(*, quick: bool, **options: Any) -> tuple[Task, str]:
    """Return the task fashion-mnist, or the task digits if `quick` or if Fashion-MNIST is not available.

    Args:
        quick: Whether to return the digits.
        options: Options of both tasks, such as `batch_size`.

    Returns:
        The task, and a sentence on its data for the settings of the page.
    """
    from dashpot import tasks

    if quick:
        return tasks.get("digits", **options), "digits."
    try:
        return tasks.get("fashion-mnist", **options), "Fashion-MNIST."
    except DataError as error:
        return tasks.get("digits", **options), f"digits instead of Fashion-MNIST: {error}"
