"""Progress reports of a study: silent, or as plain lines for logs and pipes."""

from __future__ import annotations

import sys
import time
from typing import TextIO

from dashpot.runs.eta import ProgressEstimate
from dashpot.runs.records import Epoch
from dashpot.runs.table import score_text
from dashpot.utils.format import duration
from dashpot.utils.terminal import printable

LINE_INTERVAL = 30.0
"""Seconds between two lines on the same item in a log."""
LABEL_WIDTH = 26
"""Columns of the name of an item, such as "heavy-ball lr x0.5 seed 1"."""


class StudyProgress:
    """Base class of progress reports, with an estimate of the remaining time.

    A study calls `begin` first, then `skip`, and `close` at the end. For each item (a tuning trial or a run, named by
    its key), it calls `start`, then `step` and `interval` repeatedly, and finally `finish` or `drop`. `worker` is the
    number of the worker process, which is 0 without worker processes.
    """

    def begin(self, items: int, steps: int) -> None:
        """Start the report of a study with `items` items, each with `steps` steps."""
        self.estimate = ProgressEstimate(items, steps)
        self.keys: dict[int, str] = {}  # current item of each worker

    def skip(self, items: int) -> None:
        """Report the number of items that finished in earlier sessions."""
        self.estimate.total(items)

    def start(self, key: str, steps_done: int = 0, worker: int = 0) -> None:
        """Report that an item starts, or resumes after `steps_done` steps."""
        self.keys[worker] = key
        self.estimate.start(steps_done, worker)

    def step(self, steps_done: int, worker: int = 0) -> None:
        """Report that `steps_done` steps of the current item are done."""
        self.estimate.step(steps_done, worker)

    def interval(self, text: str, worker: int = 0) -> None:
        """Report an evaluation that has been recorded."""

    def finish(self, key: str, text: str, worker: int = 0) -> None:
        """Report an item that is finished, in any status."""
        self.keys.pop(worker, None)
        self.estimate.finish(worker)

    def drop(self, worker: int = 0) -> None:
        """Report that a worker no longer executes its current item, which is unfinished."""
        self.keys.pop(worker, None)
        self.estimate.drop(worker)

    def total(self, finished: int) -> None:
        """Report the number of finished items of the study, with those of other machines."""
        self.estimate.total(finished)

    def note(self, text: str) -> None:
        """Report an event, such as the death of a worker."""

    def close(self) -> None:
        """End the report of a finished or interrupted study."""

    def time_left(self) -> str:
        """Return the estimated remaining time as text; empty before the first step and after the last item."""
        seconds = self.estimate.remaining()
        return "" if not seconds else f"about {duration(seconds)} left"


class SilentProgress(StudyProgress):
    """Progress report without output."""


class LineProgress(StudyProgress):
    """Progress report that prints a line per finished item, and every 30 s a line for each item in progress."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream = stream or sys.stdout
        self._printed: dict[int, float] = {}  # times of the last lines, by worker

    def _print(self, key: str, text: str, number: int) -> None:
        total = self.estimate.items
        head = f"[{min(number, total):>{len(str(total))}}/{total}] {item_label(key):<{LABEL_WIDTH}} {text}"
        print(printable(head.rstrip()), file=self.stream, flush=True)

    def skip(self, items: int) -> None:
        super().skip(items)
        self.note(skipped_text(items, self.estimate.items))

    def start(self, key: str, steps_done: int = 0, worker: int = 0) -> None:
        super().start(key, steps_done, worker)
        self._printed[worker] = time.monotonic()
        if steps_done:
            self._print(key, f"resumes after step {steps_done}", self.estimate.finished + 1)

    def interval(self, text: str, worker: int = 0) -> None:
        now = time.monotonic()
        if now - self._printed.get(worker, now) >= LINE_INTERVAL:
            self._printed[worker] = now
            self._print(self.keys.get(worker, ""), f"{text}  {self.time_left()}", self.estimate.finished + 1)

    def finish(self, key: str, text: str, worker: int = 0) -> None:
        super().finish(key, text, worker)
        self._print(key, f"{text}  {self.time_left()}", self.estimate.finished)

    def note(self, text: str) -> None:
        print(printable(text), file=self.stream, flush=True)


def progress_for(stream: TextIO) -> StudyProgress:
    """Return a `LiveProgress` if `stream` is a terminal and rich is installed, else a `LineProgress`."""
    if stream.isatty():
        try:
            from dashpot.comparison.live_progress import LiveProgress

            return LiveProgress()
        except ImportError:
            return LineProgress(stream)
    return LineProgress(stream)


def item_label(key: str) -> str:
    """Return a short text for the key of an item.

    >>> item_label("trial/adam/3"), item_label("run/adam/0"), item_label("rate/adam/0.1/0")
    ('adam trial 3', 'adam seed 0', 'adam lr x0.1 seed 0')
    """
    match key.split("/"):
        case ["trial", method, number]:
            return f"{method} trial {number}"
        case ["run", method, seed]:
            return f"{method} seed {seed}"
        case ["rate", method, factor, seed]:
            return f"{method} lr x{factor} seed {seed}"
    return key


def skipped_text(finished: int, items: int) -> str:
    """Return a sentence on the items of earlier sessions.

    >>> skipped_text(3, 12), skipped_text(12, 12)
    ('3 of 12 items were done in an earlier session.', 'All 12 items were done in an earlier session.')
    """
    return f"{'All ' if finished == items else f'{finished} of '}{items} items were done in an earlier session."


def epoch_text(epoch: Epoch) -> str:
    """Return a short text for an interval, such as `step 800  train .823 (.493)  eval .843 (.430)  lr 0.01`."""
    if epoch.diverged is not None:
        return f"diverged at step {epoch.diverged.step + 1}: the loss is {epoch.diverged.label}"
    phases = f"step {epoch.steps}  train {score_text(epoch.train)}"
    if epoch.evaluation:
        phases += f"  eval {score_text(epoch.evaluation)}"
    return f"{phases}  lr {epoch.lr[-1]:.3g}"
