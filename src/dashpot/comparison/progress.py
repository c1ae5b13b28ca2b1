"""Telling how a study goes: silently, as plain lines, or as live bars in a terminal."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import TYPE_CHECKING, TextIO

from dashpot.runs.eta import ProgressEstimate, duration
from dashpot.runs.records import Run
from dashpot.runs.table import score_text
from dashpot.training import Epoch

if TYPE_CHECKING:
    from dashpot.runs.study import StudyRun

__all__ = ["LineProgress", "LiveProgress", "SilentProgress", "StudyProgress", "progress_for"]


class StudyProgress:
    """What a study tells as it goes. Subclasses show it; the time left is kept here, once.

    The calls, in order: `begin`, then for each run either `skip` or `start`, `step` and `epoch` many times, `finish`.
    """

    def __enter__(self) -> StudyProgress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def begin(self, runs: int, steps: int, epochs: int) -> None:
        """A study of `runs` runs, each of `steps` steps in `epochs` epochs, begins."""
        self.estimate, self.epochs = ProgressEstimate(runs, steps), epochs

    def skip(self, plan: StudyRun, run: Run) -> None:
        """A run was finished in an earlier session."""
        self.estimate.skip_run()

    def start(self, plan: StudyRun, epochs_done: int) -> None:
        """A run begins, or goes on after `epochs_done` epochs."""
        self.estimate.start_run(epochs_done * (self.estimate.steps // self.epochs))

    def step(self, steps_done: int) -> None:
        """The present run has done `steps_done` steps."""
        self.estimate.step(steps_done)

    def epoch(self, plan: StudyRun, epoch: Epoch) -> None:
        """An epoch was evaluated and recorded."""

    def finish(self, plan: StudyRun, run: Run) -> None:
        """A run is complete, or has diverged."""
        self.estimate.finish_run()

    def close(self) -> None:
        """The study is over or was stopped."""

    def left(self) -> str:
        """The time left in words."""
        seconds = self.estimate.remaining()
        return "" if seconds is None else f"about {duration(seconds)} left"


class SilentProgress(StudyProgress):
    """Shows nothing."""


class LineProgress(StudyProgress):
    """One line for each epoch, for logs and pipes."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream = stream or sys.stdout

    def _say(self, plan: StudyRun, text: str) -> None:
        width = len(str(self.estimate.runs))
        number = min(self.estimate.finished + 1, self.estimate.runs)
        print(f"[{number:>{width}}/{self.estimate.runs}] {plan!s:<22} {text}", file=self.stream, flush=True)

    def skip(self, plan: StudyRun, run: Run) -> None:
        """Say that the run is there."""
        self._say(plan, f"{run.status} in an earlier session")
        super().skip(plan, run)

    def start(self, plan: StudyRun, epochs_done: int) -> None:
        """Say where the run goes on, when it does."""
        super().start(plan, epochs_done)
        if epochs_done:
            self._say(plan, f"goes on after epoch {epochs_done}")

    def epoch(self, plan: StudyRun, epoch: Epoch) -> None:
        """Say what the epoch measured."""
        self._say(plan, f"epoch {epoch.number}/{self.epochs}  {epoch_text(epoch)}  {self.left()}")


class LiveProgress(StudyProgress):
    """Bars for the present run and the whole study in a terminal, and a line for each finished run."""

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
        """Draw the bars."""
        super().begin(runs, steps, epochs)
        self.whole = self.bars.add_task(f"{runs} runs", total=1.0, note="")
        self.present = self.bars.add_task("", total=steps, note="")
        self.bars.start()

    def skip(self, plan: StudyRun, run: Run) -> None:
        """Say that the run is there."""
        self.bars.console.print(f"{plan!s:<22} {run.status} in an earlier session", markup=False)
        super().skip(plan, run)
        self._draw()

    def start(self, plan: StudyRun, epochs_done: int) -> None:
        """Begin the bar of the run."""
        super().start(plan, epochs_done)
        self.bars.reset(self.present, description=str(plan), note=f"epoch {epochs_done + 1}/{self.epochs}")

    def step(self, steps_done: int) -> None:
        """Move the bars."""
        super().step(steps_done)
        self.bars.update(self.present, completed=steps_done)
        self._draw()

    def epoch(self, plan: StudyRun, epoch: Epoch) -> None:
        """Show what the epoch measured."""
        self.bars.update(self.present, note=f"epoch {epoch.number}/{self.epochs}  {epoch_text(epoch)}")

    def finish(self, plan: StudyRun, run: Run) -> None:
        """Leave a line for the run."""
        super().finish(plan, run)
        self.bars.console.print(f"{plan!s:<22} {run_text(run)}", markup=False)
        self._draw()

    def close(self) -> None:
        """Leave the terminal as it was."""
        self.bars.stop()

    def _draw(self) -> None:
        note = f"{self.estimate.finished}/{self.estimate.runs}  {self.left()}"
        self.bars.update(self.whole, completed=self.estimate.fraction, note=note)


def progress_for(stream: TextIO) -> StudyProgress:
    """Bars where `stream` is a terminal and rich is installed, plain lines otherwise."""
    if stream.isatty():
        try:
            return LiveProgress()
        except ImportError:
            return LineProgress(stream)
    return LineProgress(stream)


def epoch_text(epoch: Epoch) -> str:
    """One epoch in a few words: `train .823 (.493)  eval .843 (.430)  lr 0.01  4.1 s`."""
    if epoch.diverged is not None:
        return f"diverged at step {epoch.diverged.step + 1}: the loss is {epoch.diverged.label}"
    phases = f"train {score_text(epoch.train)}"
    if epoch.evaluation:
        phases += f"  eval {score_text(epoch.evaluation)}"
    return f"{phases}  lr {epoch.lr[-1]:.3g}  {duration(epoch.wall_s)}"


def run_text(run: Run) -> str:
    """One finished run in a few words."""
    if run.status == "diverged":
        assert run.end is not None
        return f"diverged at step {run.end['step'] + 1}: the loss is {run.end['loss']}"
    last = run.epochs[-1]
    return f"{run.status}  {score_text(last['eval'] or last['train'])}"
