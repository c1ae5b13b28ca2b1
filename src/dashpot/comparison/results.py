"""Results of a comparison as plain data: the input of statistics, tables and pages, independent of their origin."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


class Curve(NamedTuple):
    """Values of a metric at increasing numbers of steps; step 0 is the untrained model."""

    steps: Array
    values: Array


@dataclass(frozen=True)
class ScoreRule:
    """The metric that ranks methods.

    Attributes:
        metric: Name of the metric, such as "accuracy".
        direction: "max" or "min".
        split: Data of the verdict: "test"; "validation" or "train" if the task has no test data.
        target: Target value of the metric on the validation data (else `split`), for the steps to target; or None.
        margin: Largest difference of the metric that is practically irrelevant, for equivalence; or None.
    """

    metric: str
    direction: str
    split: str
    target: float | None = None
    margin: float | None = None

    @property
    def sign(self) -> float:
        """1 if larger is better, else -1."""
        return 1.0 if self.direction == "max" else -1.0


@dataclass(frozen=True)
class JudgedRun:
    """A run with a seed of the comparison.

    Attributes:
        method: Name of the method.
        seed: Seed; runs with the same seed are paired.
        status: "done", "diverged", "failed" (raised an error) or "unfinished".
        score: Final score on the data of the verdict. A diverged run has the score of its untrained model; a failed or
            unfinished run has None.
        steps_to_target: Steps until the first evaluation that meets the target; inf if the run has missed it, also if
            it diverged; NaN without a target, or if the run has failed or is unfinished.
        steps: Number of steps of a complete run, at which a miss is censored.
        curves: Curves by name: "train loss", and "validation METRIC" for each metric measured on validation data
            ("train METRIC" per interval if there is none).
        lr: Base learning rate.
        cpu_s: CPU seconds of training, without evaluation.
        wall_s: Wall-clock seconds of training, without evaluation.
        memory_bytes: Peak resident memory of the process during the run, or None if unknown.
        state_bytes: Size of the optimizer state, or None if unknown.
        error: Message of the error of a failed run.
    """

    method: str
    seed: int
    status: str
    score: float | None
    steps_to_target: float = math.nan
    steps: int = 0
    curves: Mapping[str, Curve] = field(default_factory=dict)
    lr: float | None = None
    cpu_s: float | None = None
    wall_s: float | None = None
    memory_bytes: int | None = None
    state_bytes: int | None = None
    error: str | None = None


@dataclass(frozen=True)
class TuningTrial:
    """A trial of the search over settings.

    Attributes:
        method: Name of the method.
        number: Number of the trial of the method, from 0; trial 0 uses the default settings.
        values: Settings of the trial by name, such as {"lr": 0.01}.
        status: "done", "diverged", "failed", "pruned" or "unfinished".
        score: Final score on the validation data; None unless the status is "done". A diverged trial has None.
        selected: Whether the judged runs use the settings of this trial.
        error: Message of the error of a failed trial.
    """

    method: str
    number: int
    values: Mapping[str, float]
    status: str
    score: float | None
    selected: bool = False
    error: str | None = None


@dataclass(frozen=True)
class RateRun:
    """A run with the selected settings and the learning rate multiplied by `factor`, for the sensitivity."""

    method: str
    factor: float
    seed: int
    status: str
    score: float | None


@dataclass(frozen=True)
class Results:
    """Everything that was measured in one comparison on one task.

    Attributes:
        task: Name of the task.
        description: One-sentence description of the task, or "".
        rule: The metric that ranks methods.
        methods: Names of all methods in the order of the settings, methods without runs included.
        seeds: Planned seeds.
        runs: Judged runs.
        trials: Tuning trials; empty without tuning.
        rate_runs: Runs at wrong learning rates; empty if not measured.
        recipes: For each method, the expression that creates its optimizer, and its recipe.
        protocol: Statements (name, value) of the protocol: data splits, budget, search space, seeds, pairing, pruning.
        facts: Statements (name, value) of the environment: versions, machine, dates, total times.
        command: Command line that repeats the comparison, or None.
        looks: Numbers of seeds at which a group-sequential study was analysed; empty for a fixed number of seeds.
        source: Path of the folder or file.
        records: Raw data by file name, for the download, as text.
        remarks: Remarks of the reader of the data for the notes of the findings.
    """

    task: str
    description: str
    rule: ScoreRule
    methods: tuple[str, ...]
    seeds: tuple[int, ...]
    runs: tuple[JudgedRun, ...]
    trials: tuple[TuningTrial, ...] = ()
    rate_runs: tuple[RateRun, ...] = ()
    recipes: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    protocol: tuple[tuple[str, str], ...] = ()
    facts: tuple[tuple[str, str], ...] = ()
    command: str | None = None
    looks: tuple[int, ...] = ()
    source: str = ""
    records: Mapping[str, Any] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()

    def of(self, method: str) -> tuple[JudgedRun, ...]:
        """Return the judged runs of a method, by seed."""
        return tuple(sorted((run for run in self.runs if run.method == method), key=lambda run: run.seed))
