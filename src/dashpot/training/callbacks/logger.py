"""What all logs of a fit have in common: one entry for every epoch, and for every so many steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from dashpot.constraints import Interval, Optional, check
from dashpot.errors import ArgumentError
from dashpot.tasks.means import FLUSH
from dashpot.training.callbacks.epoch_summary import EpochCallback, EpochSummary
from dashpot.training.callbacks.recorder import Recorder

if TYPE_CHECKING:
    from dashpot.training.learner import Learner

__all__ = ["Logger"]

EVERY = Optional(Interval(1, math.inf, "left", integer=True))


class Logger(EpochCallback):
    """Base of loggers: one entry for every epoch, and with `every` one for every so many steps.

    A subclass defines `write_epoch` and `write_step`, which the first process alone calls, and `open`, `sync` and
    `close` where it needs them. Values of steps are read in groups, in all processes.
    """

    order: ClassVar[int] = 60
    essential: ClassVar[bool] = False

    def __init__(self, every: int | None, values: Sequence[str]) -> None:
        check(type(self).__name__, "every", every, EVERY)
        if isinstance(values, str):
            raise ArgumentError(f"{type(self).__name__}: values must be a list of names, got the text {values!r}.")
        self.every, self.values = every, tuple(values)
        self._step_recorder = _StepRecorder(*(name for name in self.values if name != "loss"))
        self._is_open = False

    # ---- for subclasses ---------------------------------------------------------------------------------------------

    def open(self) -> None:
        """The fit is about to write, after a resume has put its state back and all have accepted theirs."""

    def write_epoch(self, summary: EpochSummary) -> None:
        """An epoch is over."""
        raise NotImplementedError

    def write_step(self, epoch: int, step: int, values: Mapping[str, float]) -> None:
        """A step of an epoch, both from 1, was taken; `values` begins with its loss."""
        raise NotImplementedError

    def sync(self) -> None:
        """Everything so far has to be where a killed process cannot lose it."""

    def close(self) -> None:
        """The fit is over."""

    # ---- events -----------------------------------------------------------------------------------------------------

    def before_fit(self, learner: Learner) -> None:
        super().before_fit(learner)
        self._writes, self._is_open, self._finished = learner.engine.is_rank_zero, False, False
        self._pending_steps: list[tuple[int, int]] = []
        self._metrics, self._phases = tuple(learner.metrics), dict(learner.loop.phases)
        if self.every:
            self._step_recorder.before_fit(learner)

    def before_epoch(self, learner: Learner) -> None:
        super().before_epoch(learner)
        self._open_once()

    def _open_once(self) -> None:
        """Begin, with the first epoch or the first checkpoint: a state says what is in the file."""
        if not self._is_open and self._writes:
            self.open()
        self._is_open = True

    def after_backward(self, learner: Learner) -> None:
        if self._is_due(learner):
            self._step_recorder.after_backward(learner)

    def cleanup_batch(self, learner: Learner) -> None:
        if self._is_due(learner):
            self._step_recorder.cleanup_batch(learner)

    def step(self, learner: Learner, proceed: Callable[[], None]) -> None:
        if not self._is_due(learner):
            super().step(learner, proceed)
            return
        super().step(learner, lambda: self._step_recorder.step(learner, proceed))
        if learner.batch.stepped:
            self._pending_steps.append(
                (learner.epoch + 1, learner.steps + 1)
            )  # the step counts once all have passed it on
        if len(self._pending_steps) == FLUSH:
            self._flush()

    def _is_due(self, learner: Learner) -> bool:
        return self.every is not None and (learner.steps + 1) % self.every == 0

    def on_epoch_summary(self, learner: Learner, summary: EpochSummary) -> None:
        self._open_once()  # where the epoch was left out before this was told of it
        self._flush()
        if self._writes:
            self.write_epoch(summary)
            self.sync()

    def cleanup_fit(self, learner: Learner) -> None:
        if self._is_open:
            if learner.engine.world_size == 1:  # one process that fails must not wait for the others
                self._flush()
            if self._writes:
                self.close()
        self._is_open, self._finished = False, True

    def _flush(self) -> None:
        for (epoch, step), values in zip(self._pending_steps, self._step_recorder.pop_rows(), strict=True):
            if self._writes:
                self.write_step(epoch, step, values)
        self._pending_steps.clear()

    def state_dict(self) -> dict[str, Any]:
        if not self._finished:
            self._open_once()
            self._flush()
            if self._writes:
                self.sync()
        return super().state_dict()


class _StepRecorder(Recorder):
    """A recorder that gives its rows away."""

    def pop_rows(self) -> list[dict[str, float]]:
        """The rows since the last time."""
        self._flush()
        columns, self._values = self._values, {name: [] for name in self._values}
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
