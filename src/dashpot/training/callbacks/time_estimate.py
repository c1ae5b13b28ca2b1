"""Estimate of the remaining time of a fit."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dashpot.training.learner import Learner

EVAL_TO_TRAIN_TIME = 1 / 3
"""Assumed ratio of evaluation to training time of a batch until both are measured: backward costs twice the forward."""


class TimeEstimate:
    """Estimate of the remaining time of the fit, from the batches and seconds of each phase in this session."""

    def __init__(self) -> None:
        self.done = {"train": 0, "eval": 0}
        self.seconds = {"train": 0.0, "eval": 0.0}
        self.begin("train")

    def begin(self, phase: str) -> None:
        """Start the clock of a phase; time between phases is not counted."""
        self.phase, self.since = phase, time.perf_counter()

    def update(self) -> None:
        """Add the time since the last update to the time of the current phase."""
        now = time.perf_counter()
        self.seconds[self.phase] += now - self.since
        self.since = now

    def remaining(self, learner: Learner, done: int) -> float | None:
        """Return the remaining seconds at the measured speed; None before the first batch, or for unknown lengths."""
        self.update()
        if not self.done["train"] and not self.done["eval"]:
            return None
        phases = {phase: _batches_left(learner, phase, done) for phase, runs in learner.loop.phases.items() if runs}
        known = {phase: batches for phase, batches in phases.items() if batches is not None}
        if known.keys() != phases.keys():
            return None
        return sum(batches * self._seconds_per_batch(phase) for phase, batches in known.items())

    def _seconds_per_batch(self, phase: str) -> float:
        """Return the seconds per batch of a phase, estimated from the other phase before its first batch."""
        if self.done[phase]:
            return self.seconds[phase] / self.done[phase]
        other = "train" if phase == "eval" else "eval"
        return (
            self.seconds[other] / self.done[other] * (EVAL_TO_TRAIN_TIME if phase == "eval" else 1 / EVAL_TO_TRAIN_TIME)
        )


def _batches_left(learner: Learner, phase: str, done: int) -> int | None:
    """Return the number of batches left in all phases `phase` of the fit, or None if it is unknown.

    `done` is the number of batches done in the current phase.
    """
    if phase == "train":
        return learner.loop.plan.batches_left(*((learner.epoch, done) if learner.training else (learner.epoch + 1, 0)))
    if learner.evaluation is None or learner.evaluation.size is None:
        return None
    return learner.evaluation.size * (learner.epochs - learner.epoch) - (0 if learner.training else done)
