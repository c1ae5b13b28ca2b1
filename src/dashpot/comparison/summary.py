"""The summary of a study: one row a method, computed from records only."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from dashpot.runs.eta import duration
from dashpot.runs.records import Run
from dashpot.runs.table import markdown_table, text_table
from dashpot.tasks import Target

__all__ = ["Score", "Summary", "SummaryRow", "summarise"]


@dataclass(frozen=True)
class SummaryRow:
    """What one method reached over its seeds.

    Args:
        name: the method as compared.
        lr: its base learning rate.
        finals: the score after the last epoch of each run that is done, in seed order.
        mean, sd, best: of `finals`; None where there are none, and for `sd` fewer than two (n - 1 in the divisor).
        steps_to_target: median over all runs that ended of the steps before the first evaluation that meets the target.
            A run that never met it counts as infinite, so the median is infinite when half of them did not.
            None where no target is set.
        budget: steps of a whole run, the most that `steps_to_target` can be when it is finite.
        reached: how many runs met the target.
        cpu_s: mean CPU seconds of training of the runs that are done.
        done, diverged, unfinished: how many runs are so.
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
    """What methods are judged by: a metric, `max` or `min`, the phase it is measured in, and the target, if any."""

    metric: str
    direction: str
    phase: str
    target: float | None


@dataclass(frozen=True)
class Summary:
    """All rows, best mean first; methods without a finished run come last."""

    score: Score
    rows: tuple[SummaryRow, ...]

    def header(self) -> list[str]:
        """Column titles; columns that would be empty everywhere are left out."""
        score = self.score
        target = [] if score.target is None else [f"steps to {score.target:g}"]
        return ["method", "lr", f"{score.phase} {score.metric}", "sd", "best", *target, "CPU time", *self._notes()]

    def cells(self, row: SummaryRow) -> list[str]:
        """The cells of one row as text."""
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
        """The table for a terminal."""
        return text_table(self.header(), [self.cells(row) for row in self.rows])

    def markdown(self) -> str:
        """The table as Markdown."""
        return markdown_table(self.header(), [self.cells(row) for row in self.rows])

    def _notes(self) -> list[str]:
        unfinished = any(row.unfinished for row in self.rows)
        return ["diverged", "unfinished"] if unfinished else ["diverged"]


def summarise(runs: Sequence[Run]) -> Summary:
    """The summary of the runs of one study.

    The score is what the study's records say: the task's target metric, else accuracy, else the loss; taken from the
    evaluation, or from training where the task has no evaluation set.
    """
    score = Score(**runs[0].header["score"])
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
    """Steps before the first evaluation that meets the target; infinite where none does."""
    assert score.target is not None
    target = Target(score.metric, score.target, score.direction)
    reached = (epoch["steps"] for epoch in run.epochs if target.reached(epoch[score.phase][score.metric]))
    return next(reached, math.inf)


def _number(value: float | None, like: float | None = None) -> str:
    """Four decimals where they say something of `like` (the value itself by default), else three digits."""
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
