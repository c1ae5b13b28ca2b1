"""Results of single records: judged runs, tuning trials, and runs at wrong learning rates."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dashpot.comparison.results import Curve, JudgedRun, RateRun, ScoreRule, TuningTrial
from dashpot.runs.records import Run
from dashpot.runs.run_scores import validation_score, verdict_score
from dashpot.tasks import Target

POINTS = 200
"""Largest number of training losses of a curve; each is the mean over consecutive steps."""
PHASES = {"eval": "validation", "train": "train"}
"""Names of curves by phase of a record."""


def score_rule(score: Mapping[str, Any]) -> ScoreRule:
    """Return the rule in the header of a record or in the settings of a study."""
    split = score.get("split", PHASES[score["phase"]])
    target, margin = (None if score.get(name) is None else float(score[name]) for name in ("target", "margin"))
    return ScoreRule(score["metric"], score["direction"], split, target, margin)


def judged_run(run: Run, steps: int, *, method: str | None = None) -> JudgedRun:
    """Return the results of a record.

    Args:
        run: Record of a run.
        steps: Number of steps of a complete run.
        method: Name of the method. Default: that of the entry.
    """
    end = run.end or {}
    return JudgedRun(
        method=run.entry if method is None else method,
        seed=run.seed,
        status=_status(run),
        score=verdict_score(run),
        steps_to_target=_steps_to_target(run),
        steps=steps,
        curves=_curves(run),
        lr=_finite(float(run.header["lr"])) if "lr" in run.header else None,
        cpu_s=_seconds(run, "cpu_s"),
        wall_s=_seconds(run, "wall_s"),
        memory_bytes=end.get("memory_bytes"),
        state_bytes=end.get("state_bytes"),
        error=end.get("error"),
    )


def tuning_trial(run: Run, number: int, selected: Mapping[str, float] | None) -> TuningTrial:
    """Return the results of the record of a trial.

    Args:
        run: Record of a tuning trial.
        number: Number of the trial.
        selected: Settings of the judged runs of the method, or None if unknown.
    """
    values = {name: float(value) for name, value in run.header.get("values", {}).items()}
    score = validation_score(run) if run.status == "done" else None
    return TuningTrial(run.entry, number, values, run.status, score, values == selected, (run.end or {}).get("error"))


def rate_run(run: Run, factor: float) -> RateRun:
    """Return the results of the record of a run with the learning rate multiplied by `factor`."""
    return RateRun(run.entry, factor, run.seed, _status(run), verdict_score(run))


def _status(run: Run) -> str:
    """Return the status; a completed run without a finite score has diverged."""
    if run.status == "done" and verdict_score(run) is None:
        return "diverged"
    return run.status


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _steps_to_target(run: Run) -> float:
    """Return the steps until the first evaluation that meets the target, including the one at step 0."""
    score = run.header["score"]
    if score["target"] is None or _status(run) not in ("done", "diverged"):
        return math.nan
    if _status(run) == "diverged":
        return math.inf
    target = Target(score["metric"], float(score["target"]), score["direction"])
    curve = _metric_curves(run, score["phase"]).get(score["metric"])
    reached = [] if curve is None else [s for s, v in zip(*curve, strict=True) if target.reached(float(v))]
    return float(reached[0]) if reached else math.inf


def _seconds(run: Run, name: str) -> float | None:
    """Return the CPU or wall seconds of training of a run that has ended."""
    if run.end is None or run.status == "failed":
        return None
    if name in run.end:
        return float(run.end[name])
    known = [epoch[name] for epoch in run.epochs if name in epoch]
    return math.fsum(known) if known else None


def _curves(run: Run) -> dict[str, Curve]:
    """Return the curves of the training loss and of the metrics on validation data, else on training data."""
    measured = {phase: _metric_curves(run, phase) for phase in PHASES}
    phase = "eval" if measured["eval"] else "train"
    curves = {f"{PHASES[phase]} {name}": curve for name, curve in measured[phase].items()}
    return {"train loss": thinned(run.steps, run.loss), **curves} if run.loss else curves


def _metric_curves(run: Run, phase: str) -> dict[str, Curve]:
    """Return the curves of the metrics of a phase, from the untrained model if it was evaluated."""
    start = [] if run.initial is None else [(0, run.initial.get(phase, {}))]
    points = start + [(epoch["steps"], epoch[phase]) for epoch in run.epochs]
    names = dict.fromkeys(name for _, means in points for name in means)
    return {name: _curve([(s, means[name]) for s, means in points if name in means]) for name in names}


def _curve(points: Sequence[tuple[int, float]]) -> Curve:
    steps, values = np.array(points, dtype=np.float64).T
    return Curve(steps, values)


def thinned(steps: Sequence[int], values: Sequence[float], points: int = POINTS) -> Curve:
    """Return means over consecutive steps, each at its last step, at most `points` of them.

    >>> thinned([1, 2, 3, 4, 5], [4.0, 2.0, 1.0, 0.0, 7.0], points=3)
    Curve(steps=array([2., 4., 5.]), values=array([3. , 0.5, 7. ]))
    """
    size = max(1, math.ceil(len(values) / points))
    starts = np.arange(0, len(values), size)
    ends = np.minimum(starts + size, len(values))
    # Sums that overflow or contain NaN are values of a diverged run.
    with np.errstate(invalid="ignore", over="ignore"):
        sums = np.add.reduceat(np.asarray(values, dtype=np.float64), starts)
    return Curve(np.asarray(steps, dtype=np.float64)[ends - 1], sums / (ends - starts))
