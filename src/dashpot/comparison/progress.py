"""Progress reports of a study: silent, as plain lines, or as live bars in a terminal."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, TextIO

from dashpot.runs.eta import ProgressEstimate
from dashpot.runs.records import Run
from dashpot.runs.table import score_text
from dashpot.training import Epoch
from dashpot.utils.format import duration

if TYPE_CHECKING:
    from dashpot.runs.study import StudyRun


class StudyProgress:
    """Base class of progress reports, with an estimate of the remaining time.

    A study calls `begin` first and `close` at the end. In between, it calls for each run either only `skip`, or
    `start`, then `step` and `epoch` repeatedly, and finally `finish`.
    """

    def begin(self, runs: int, steps: int, epochs: int) -> None:
        """Start the report of a study with `runs` runs, each with `steps` steps in `epochs` epochs."""
        self.estimate, self.epochs = ProgressEstimate(runs, steps), epochs

    def skip(self, plan: StudyRun, run: Run) -> None:
        """Report a run that finished in an earlier session."""
        self.estimate.skip_run()

    def start(self, plan: StudyRun, epochs_done: int) -> None:
        """Report that a run starts, or resumes after `epochs_done` epochs."""
        self.estimate.start_run(epochs_done * (self.estimate.steps // self.epochs))

    def step(self, steps_done: int) -> None:
        """Report that `steps_done` steps of the current run are done."""
        self.estimate.step(steps_done)

    def epoch(self, plan: StudyRun, epoch: Epoch) -> None:
        """Report an epoch that has been recorded."""

    def finish(self, plan: StudyRun, run: Run) -> None:
        """Report a run that is complete or has diverged."""
        self.estimate.finish_run()

    def close(self) -> None:
        """End the report of a finished or interrupted study."""

    def time_left(self) -> str:
        """Return the estimated remaining time as text, or an empty string before the first step."""
        seconds = self.estimate.remaining()
        return "" if seconds is None else f"about {duration(seconds)} left"


class SilentProgress(StudyProgress):
    """Progress report without output."""


class LineProgress(StudyProgress):
    """Progress report that prints one line per epoch, for logs and pipes."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream = stream or sys.stdout

    def _print(self, plan: StudyRun, text: str) -> None:
        width = len(str(self.estimate.runs))
        number = min(self.estimate.finished + 1, self.estimate.runs)
        print(f"[{number:>{width}}/{self.estimate.runs}] {plan!s:<22} {text}", file=self.stream, flush=True)

    def skip(self, plan: StudyRun, run: Run) -> None:
        self._print(plan, f"{run.status} in an earlier session")
        super().skip(plan, run)

    def start(self, plan: StudyRun, epochs_done: int) -> None:
        super().start(plan, epochs_done)
        if epochs_done:
            self._print(plan, f"resumes after epoch {epochs_done}")

    def epoch(self, plan: StudyRun, epoch: Epoch) -> None:
        self._print(plan, f"epoch {epoch.number}/{self.epochs}  {epoch_text(epoch)}  {self.time_left()}")


class LiveProgress(StudyProgress):
    """Progress report with bars for the current run and the study in a terminal, and a line per finished run."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn
        from rich.progress import Progress as Bars

        self.bars = Bars(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[note]}", markup=False),
            console=Console(highlight=False),
            expand=True,
            transient=True,
        )

    def begin(self, runs: int, steps: int, epochs: int) -> None:
        super().begin(runs, steps, epochs)
        self.study_bar = self.bars.add_task(f"{runs} runs", total=1.0, note="")
        self.run_bar = self.bars.add_task("", total=steps, note="")
        self.bars.start()

    def skip(self, plan: StudyRun, run: Run) -> None:
        self.bars.console.print(f"{plan!s:<22} {run.status} in an earlier session", markup=False)
        super().skip(plan, run)
        self._draw()

    def start(self, plan: StudyRun, epochs_done: int) -> None:
        super().start(plan, epochs_done)
        self.bars.reset(self.run_bar, description=str(plan), note=f"epoch {epochs_done + 1}/{self.epochs}")

    def step(self, steps_done: int) -> None:
        super().step(steps_done)
        self.bars.update(self.run_bar, completed=steps_done)
        self._draw()

    def epoch(self, plan: StudyRun, epoch: Epoch) -> None:
        self.bars.update(self.run_bar, note=f"epoch {epoch.number}/{self.epochs}  {epoch_text(epoch)}")

    def finish(self, plan: StudyRun, run: Run) -> None:
        super().finish(plan, run)
        self.bars.console.print(f"{plan!s:<22} {run_text(run)}", markup=False)
        self._draw()

    def close(self) -> None:
        self.bars.stop()

    def _draw(self) -> None:
        note = f"{self.estimate.finished}/{self.estimate.runs}  {self.time_left()}"
        self.bars.update(self.study_bar, completed=self.estimate.fraction, note=note)


def progress_for(stream: TextIO) -> StudyProgress:
    """Return a `LiveProgress` if `stream` is a terminal and rich is installed, else a `LineProgress`."""
    if stream.isatty():
        try:
            return LiveProgress()
        except ImportError:
            return LineProgress(stream)
    return LineProgress(stream)


def epoch_text(epoch: Epoch) -> str:
    """Return a short text for an epoch, such as `train .823 (.493)  eval .843 (.430)  lr 0.01  4.1 s`."""
    if epoch.diverged is not None:
        return f"diverged at step {epoch.diverged.step + 1}: the loss is {epoch.diverged.label}"
    phases = f"train {score_text(epoch.train)}"
    if epoch.evaluation:
        phases += f"  eval {score_text(epoch.evaluation)}"
    return f"{phases}  lr {epoch.lr[-1]:.3g}  {duration(epoch.wall_s)}"


def run_text(run: Run) -> str:
    """Return a short text for a finished run."""
    if run.status == "diverged":
        assert run.end is not None
        return f"diverged at step {run.end['step'] + 1}: the loss is {run.end['loss']}"
    last = run.epochs[-1]
    return f"{run.status}  {score_text(last['eval'] or last['train'])}"
