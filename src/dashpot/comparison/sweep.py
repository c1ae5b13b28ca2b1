"""Learning-rate sweep of a method on a task, on a logarithmic grid."""

from __future__ import annotations

import math
from functools import partial
from typing import NamedTuple

import torch

from dashpot.constraints import Interval, OneOf, check
from dashpot.runs.default_lr import default_lr
from dashpot.runs.entries import entry
from dashpot.runs.study import Study
from dashpot.tasks import Task
from dashpot.training import train

__all__ = ["SWEEP_SEED", "Trial", "sweep"]

SWEEP_SEED = 1000
"""Seed of sweeps. Comparisons use the seeds 0, 1, ..., so learning rates are not tuned on the compared runs."""


class Trial(NamedTuple):
    """Result of a run with one learning rate.

    Attributes:
        lr: Learning rate of the run.
        score: Score on the validation data after the last epoch; the worst possible value if the run diverged.
        epochs_to_target: Number of epochs until the target was first met; infinite if the last epoch does not meet it.
        loss: Loss on the same data after the last epoch; infinite if the run diverged.
    """

    lr: float
    score: float
    epochs_to_target: float
    loss: float


def sweep(
    task: Task,
    method: str,
    *,
    by: str = "score",
    epochs: int | None = None,
    seed: int = SWEEP_SEED,
    max_runs: int = 12,
) -> list[Trial]:
    """Train `method` with learning rates of the grid ..., 0.1, 0.3, 1, 3, ... and return the trials, best first.

    The search starts at the method's default rate and trains with the neighbors of the best rate so far, until both
    neighbors have been tried. While all runs diverge, the search moves to lower rates.

    Args:
        task: Task to train.
        method: Name of a method; see `dashpot.comparison.known_entries`.
        by: Criterion of the ranking. "score" ranks by the final score, with ties broken by the loss. "target" ranks by
            the number of epochs to the task's target, with ties broken by the score; use "target" for noiseless tasks,
            where the final loss is only a rounding error at every good rate.
        epochs: Number of epochs of each run. Default: the number of epochs of the task.
        seed: Seed of each run.
        max_runs: Maximum number of runs, at least 1.

    Raises:
        ArgumentError: If `method` is unknown or an argument is out of range.

    >>> from dashpot import tasks
    >>> best, *others = sweep(tasks.get("quadratic"), "sgd", epochs=5)
    >>> best.lr, all(best.score <= other.score for other in others)
    (1.0, True)
    """
    check("sweep", "by", by, OneOf(("score", "target")))
    check("sweep", "max_runs", max_runs, Interval(1, math.inf, "left", integer=True))
    epochs = task.epochs if epochs is None else epochs
    trials: dict[int, Trial] = {}
    pending = [round(2 * math.log10(default_lr(task.name, method)))]

    def rank(trial: Trial) -> tuple[float, float, float]:
        return (trial.epochs_to_target if by == "target" else 0.0), sign * trial.score, trial.loss

    while pending and len(trials) < max_runs:
        place = pending.pop(0)
        trials[place], sign = _trial(Study(task, (entry(method, task.name, lr=grid(place)),), (seed,), epochs))
        best = min(trials, key=lambda at: rank(trials[at]))
        lower = all(math.isinf(trial.score) for trial in trials.values())
        pending = [min(trials) - 1] if lower else [near for near in (best + 1, best - 1) if near not in trials]
    return sorted(trials.values(), key=rank)


def grid(place: int) -> float:
    """Return the element of the grid with index `place`: 10^(place/2), rounded to one digit.

    >>> [grid(place) for place in (-3, -2, -1, 0, 1)]
    [0.03, 0.1, 0.3, 1.0, 3.0]
    """
    return float(f"{10 ** (place / 2):.0e}")


def _trial(study: Study) -> tuple[Trial, float]:
    """Train the only run of `study`; return the trial, and a sign such that a smaller sign * score is better."""
    [chosen], [seed] = study.entries, study.seeds
    problem = study.task.build(seed)
    score = study.score(problem)
    sign = -1.0 if score["direction"] == "max" else 1.0
    optimizer = partial(chosen.optimizer, steps=study.epochs * len(problem.train))
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        history = train(problem, optimizer, study.epochs)
    means = [epoch.train if score["phase"] == "train" else epoch.evaluation for epoch in history]
    values = [mean.get(score["metric"], math.nan) for mean in means]
    final = values[-1] if math.isfinite(values[-1]) else sign * math.inf
    loss = means[-1].get("loss", math.nan)
    target = study.task.target
    met = [at for at, value in enumerate(values, start=1) if target is not None and target.reached(value)]
    to_target = met[0] if met and met[-1] == study.epochs else math.inf
    return Trial(chosen.lr, final, to_target, loss if math.isfinite(loss) else math.inf), sign
