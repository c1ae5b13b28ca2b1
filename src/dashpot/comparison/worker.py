"""Worker of a study: claims items of the work queue and executes them until the study is finished."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from dashpot.comparison.execution import Ended, execute, record_failure
from dashpot.comparison.progress import StudyProgress, epoch_text
from dashpot.comparison.study_folder import StudyFolder
from dashpot.comparison.study_items import asked, finished, plan, ready_keys
from dashpot.comparison.worker_times import WorkerTimes
from dashpot.errors import DashpotError
from dashpot.runs.records import Epoch
from dashpot.runs.signals import Interrupted
from dashpot.runs.study import Study
from dashpot.scheduling.claim import Claim
from dashpot.scheduling.work_items import Outcome
from dashpot.scheduling.work_queue import WorkQueue

DEATHS = 3
"""Number of worker processes that may die with an item until the item counts as failed."""
WAITS = (0.05, 1.0)
"""Shortest and longest pause, in seconds, between two searches for a ready item."""


class _Lost(Exception):  # noqa: N818 - control flow, not an error
    """Exception raised if another worker has taken over the item."""


@dataclass
class Worker:
    """Worker of a study.

    Args:
        study: Study to work on.
        queue: Work queue with the items of the study.
        folder: Folder of the study.
        progress: Progress report.
        check_interrupt: Function that raises `Interrupted` after a request to stop.
        command: Command line that repeats the study, stored in the records.
        deaths: Number of worker processes that have died with an item, by key; the parent process may update it.
        known: Mapping to which the outcomes are added as they are read from the queue.
        times: Times to which those of this worker are added.
    """

    study: Study
    queue: WorkQueue
    folder: StudyFolder
    progress: StudyProgress
    check_interrupt: Callable[[], None]
    command: str | None = None
    deaths: Mapping[str, int] = field(default_factory=dict)
    known: dict[str, Outcome] = field(default_factory=dict)
    times: WorkerTimes = field(default_factory=WorkerTimes)

    def work(self) -> None:
        """Execute items until the study is finished.

        Raises:
            RunError: If a file or the storage cannot be written; another worker can claim the current item.
            Interrupted: If a request to stop was received; another worker can claim the current item.
        """
        wait = WAITS[0]
        while True:
            self.check_interrupt()
            with self.times.measured("scheduling_s"):
                outcomes = self.queue.outcomes()
                self.known.update(outcomes)
                self.progress.total(len(outcomes))
                if finished(self.study, outcomes):
                    return
                claim = self.queue.claim(ready_keys(self.study, outcomes).__contains__)
            if claim is not None:
                wait = WAITS[0]
                self._execute(claim, outcomes)
                continue
            with self.times.measured("waiting_s"):
                time.sleep(wait)
            wait = min(2 * wait, WAITS[1])

    def _execute(self, claim: Claim, outcomes: Mapping[str, Outcome]) -> None:
        """Execute an item and record its outcome, or give it back after an interrupt or an error."""
        try:
            with self.times.measured("training_s"):
                ended = self._train(claim, outcomes)
            with self.times.measured("scheduling_s"):
                accepted = claim.finish(ended.status, ended.score, ended.data)
        except _Lost:
            claim.release()
            accepted, ended = False, None
        except (Interrupted, DashpotError):
            self.progress.drop()
            with contextlib.suppress(DashpotError):
                claim.release()
            raise
        if ended is None or not accepted:
            self.progress.drop()
            return
        self.times.items += 1
        self.progress.finish(claim.key, ended_text(ended, self.study.settings()["score"]["metric"]))

    def _train(self, claim: Claim, outcomes: Mapping[str, Outcome]) -> Ended:
        key, trial = claim.key, asked(self.study, claim.key)
        values = None if trial is None else claim.suggest(trial.space, trial.given)
        run = plan(self.study, key, outcomes, values)
        if self.deaths.get(key, 0) >= DEATHS:
            message = f"the worker process died {self.deaths[key]} times during this item"
            return record_failure(self.study, run, self.folder, message, command=self.command)
        self.progress.start(key)

        def on_step(steps: int) -> None:
            if claim.is_lost:
                raise _Lost
            self.progress.step(steps)
            self.check_interrupt()

        def on_interval(epoch: Epoch) -> None:
            self.progress.interval(epoch_text(epoch))

        def prune(steps: int, score: float) -> bool:
            claim.report(steps, score)
            return claim.should_prune()

        return execute(
            self.study,
            run,
            self.folder,
            on_step=on_step,
            on_interval=on_interval,
            prune=prune if trial is not None and self.study.pruner != "none" else None,
            command=self.command,
        )


def ended_text(ended: Ended, metric: str) -> str:
    """Return a short text for the end of an item.

    >>> ended_text(Ended("done", 0.87714), "accuracy")
    'done  accuracy 0.8771'
    """
    if ended.status == "done" and ended.score is not None:
        text = f"{ended.score:#.4g}".rstrip(".")  # with trailing zeros, for columns of equal width
        return f"done  {metric} {text}"
    end = json.loads(ended.data.get("record", "").strip().rpartition("\n")[2] or "{}")
    if ended.status == "failed" and "error" in end:
        return f"failed: {end['error']}"
    if ended.status in ("diverged", "pruned") and "step" in end:
        cause = f": the loss is {end['loss']}" if "loss" in end else ""
        return f"{ended.status} at step {end['step'] + 1}{cause}"
    return ended.status
