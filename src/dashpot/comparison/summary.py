"""Summary of a study, with one row per method, computed only from the records."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from dashpot.runs.records import Run
from dashpot.runs.table import markdown_table, text_table
from dashpot.tasks import Target
from dashpot.utils.format import duration


@dataclass(frozen=True)
class SummaryRow:
    """Results of one method over its seeds.

    Attributes:
        name: Name of the entry.
        lr: Base learning rate.
        finals: Scores after the last epoch of the completed runs, in seed order.
        mean: Mean of `finals`; None if no run is complete.
        sd: Sample standard deviation of `finals` (divisor n - 1); None for fewer than two values.
        best: Best value of `finals`; None if no run is complete.
        steps_to_target: Median, over all completed and diverged runs, of the number of steps until the first evaluation
            that meets the target. A run that never meets the target counts as infinite. None if the task has no
            target.
        reached: Number of runs that met the target.
        budget: Number of steps in a complete run, which is the largest finite value of `steps_to_target`.
        cpu_s: Mean CPU seconds of training over the completed runs.
        done: Number of completed runs.
        diverged: Number of diverged runs.
        unfinished: Number of unfinished runs.
    """

    name: str
    lr: float
    finals: tuple[float, ...]
    mean: float | None
    sd: float | None
    best: float | None
    steps_to_target: float | None
    reached: int
    budget: int
    cpu_s: float | None
    done: int
    diverged: int
    unfinished: int


@dataclass(frozen=True)
class Score:
    """Score of a study: metric, direction ("max" or "min"), phase ("train" or "eval"), and target value, if any."""

    metric: str
    direction: str
    phase: str
    target: float | None


@dataclass(frozen=True)
class Summary:
    """Rows of all methods, ordered from the best to the worst mean; methods without completed runs are last."""

    score: Score
    rows: tuple[SummaryRow, ...]

    def header(self) -> list[str]:
        """Return the column titles; columns that have no values are omitted."""
        score = self.score
        target = [] if score.target is None else [f"steps to {score.target:g}"]
        return ["method", "lr", f"{score.phase} {score.metric}", "sd", "best", *target, "CPU time", *self._notes()]

    def cells(self, row: SummaryRow) -> list[str]:
        """Return the cells of a row as text."""
        notes = {"diverged": row.diverged, "unfinished": row.unfinished}
        target = [] if self.score.target is None else [_steps(row)]
        return [
            row.name,
            f"{row.lr:g}",
            _number(row.mean),
            _number(row.sd, like=row.mean),
            _number(row.best),
            *target,
            "-" if row.cpu_s is None else duration(row.cpu_s),
            *(str(notes[name]) for name in self._notes()),
        ]

    def text(self) -> str:
        """Return the table as aligned text."""
        return text_table(self.header(), [self.cells(row) for row in self.rows])

    def markdown(self) -> str:
        """Return the table as Markdown."""
        return markdown_table(self.header(), [self.cells(row) for row in self.rows])

    def _notes(self) -> list[str]:
        unfinished = any(row.unfinished for row in self.rows)
        return ["diverged", "unfinished"] if unfinished else ["diverged"]


def summarise(runs: Sequence[Run]) -> Summary:
    """Summarise the runs of one study.

    The records define the score: the metric of the task's target, else the accuracy if it is measured, else the loss.
    It is measured in the evaluation phase, or in the training phase if the task has no evaluation set.

    Args:
        runs: Runs of the study, at least one.
    """
    names = ("metric", "direction", "phase", "target")
    score = Score(**{name: runs[0].header["score"][name] for name in names})
    names = list(dict.fromkeys(run.entry for run in runs))
    rows = [_row(name, [run for run in runs if run.entry == name], score) for name in names]
    sign = -1.0 if score.direction == "max" else 1.0
    rows.sort(key=lambda row: sign * row.mean if row.mean is not None and math.isfinite(row.mean) else math.inf)
    return Summary(score, tuple(rows))


def _row(name: str, runs: list[Run], score: Score) -> SummaryRow:
    done = [run for run in runs if run.status == "done"]
    finals = tuple(run.epochs[-1][score.phase][score.metric] for run in done)
    ended = [run for run in runs if run.end is not None]
    steps = [] if score.target is None else [steps_to_target(run, score) for run in ended]
    best = max if score.direction == "max" else min
    return SummaryRow(
        name=name,
        lr=runs[0].header["lr"],
        finals=finals,
        mean=statistics.fmean(finals) if finals else None,
        sd=statistics.stdev(finals) if len(finals) > 1 and all(map(math.isfinite, finals)) else None,
        best=best(finals) if finals else None,
        steps_to_target=statistics.median(steps) if steps else None,
        reached=sum(math.isfinite(step) for step in steps),
        budget=runs[0].header["epochs"] * runs[0].header["steps_per_epoch"],
        cpu_s=statistics.fmean(sum(epoch["cpu_s"] for epoch in run.epochs) for run in done) if done else None,
        done=len(done),
        diverged=sum(run.status == "diverged" for run in runs),
        unfinished=sum(run.end is None for run in runs),
    )


def steps_to_target(run: Run, score: Score) -> float:
    """Return the number of steps until the first evaluation that meets the target, or infinity if none does."""
    assert score.target is not None
    target = Target(score.metric, score.target, score.direction)
    reached = (epoch["steps"] for epoch in run.epochs if target.reached(epoch[score.phase][score.metric]))
    return next(reached, math.inf)


def _number(value: float | None, like: float | None = None) -> str:
    """Format `value` with four decimals if `like` (default: `value`) is of moderate size, else with three digits."""
    if value is None:
        return "-"
    size = abs(value if like is None else like)
    return f"{value:.4f}" if 1e-3 <= size < 1e3 or size == 0 else f"{value:.3g}"


def _steps(row: SummaryRow) -> str:
    ended = row.done + row.diverged
    if row.steps_to_target is None:
        return "-"
    if row.reached == ended:
        return f"{row.steps_to_target:g}"
    median = f"> {row.budget}" if math.isinf(row.steps_to_target) else f"{row.steps_to_target:g}"
    return f"{median} ({row.reached} of {ended})"
