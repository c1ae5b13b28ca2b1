"""Base class of loggers, which write one entry per epoch and, optionally, one entry every n steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from dashpot.constraints import Interval, Optional, check
from dashpot.errors import ArgumentError
from dashpot.training.callbacks.epoch_summary import EpochCallback, EpochSummary
from dashpot.training.callbacks.recorder import StepRecorder
from dashpot.training.callbacks.step_values import StepValues

if TYPE_CHECKING:
    from dashpot.training.learner import Learner

EVERY = Optional(Interval(1, math.inf, "left", integer=True))


class Logger(EpochCallback):
    """Base class of loggers, which write one entry per epoch and, if `every` is given, one entry every `every` steps.

    Subclasses define `write_epoch` and `write_step`, and may define `open`, `sync` and `close`. These methods are
    called on rank 0 only. Values of steps are buffered on every rank to avoid host syncs.

    Args:
        every: Number of steps between step entries, an integer >= 1, or None for epoch entries only.
        values: Names of the values in a step entry, in addition to the loss; see `Recorder` for the names.

    Raises:
        ArgumentError: If an argument is out of range.
    """

    order: ClassVar[int] = 60
    essential: ClassVar[bool] = False

    def __init__(self, every: int | None, values: Sequence[str]) -> None:
        check(type(self).__name__, "every", every, EVERY)
        if isinstance(values, str):
            raise ArgumentError(f"{type(self).__name__}: values must be a list of names, got the string {values!r}.")
        self.every, self.values = every, tuple(values)
        StepRecorder(*(name for name in self.values if name != "loss"))  # rejects invalid names
        self._is_open = False

    # ---- for subclasses ---------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Open the log before the first entry, after all callbacks have restored their states."""

    def write_epoch(self, summary: EpochSummary) -> None:
        """Write the entry of a finished epoch."""
        raise NotImplementedError

    def write_step(self, epoch: int, step: int, values: Mapping[str, float]) -> None:
        """Write the entry of a step. `epoch` and `step` count from 1, and the first item of `values` is the loss."""
        raise NotImplementedError

    def sync(self) -> None:
        """Flush all entries to disk."""

    def close(self) -> None:
        """Close the log at the end of the fit."""

    # ---- events -----------------------------------------------------------------------------------------------------

    def before_fit(self, learner: Learner) -> None:
        super().before_fit(learner)
        self._is_rank_zero, self._is_open, self._finished = learner.engine.is_rank_zero, False, False
        self._metrics, self._phases = tuple(learner.metrics), dict(learner.loop.phases)
        self._step_values = StepValues(learner, self.values) if self.every else None

    def before_epoch(self, learner: Learner) -> None:
        super().before_epoch(learner)
        self._open_once()

    def _open_once(self) -> None:
        """Open the log before the first entry or the first checkpoint, because a checkpoint stores the file's state."""
        if not self._is_open and self._is_rank_zero:
            self.open()
        self._is_open = True

    def after_backward(self, learner: Learner) -> None:
        if values := self._due(learner):
            values.after_backward(learner)

    def cleanup_batch(self, learner: Learner) -> None:
        if values := self._due(learner):
            values.cleanup_batch(learner)

    def step(self, learner: Learner, proceed: Callable[[], None]) -> None:
        if values := self._due(learner):
            super().step(learner, lambda: values.step(learner, proceed))
        else:
            super().step(learner, proceed)

    def after_batch(self, learner: Learner) -> None:
        if self._step_values is not None and self._step_values.full:
            self._flush()

    def _due(self, learner: Learner) -> StepValues | None:
        """Return the recorder of step values if the next step has an entry."""
        return self._step_values if self.every is not None and (learner.steps + 1) % self.every == 0 else None

    def on_epoch_summary(self, learner: Learner, summary: EpochSummary) -> None:
        self._open_once()  # `before_epoch` may have been cancelled
        self._flush()
        if self._is_rank_zero:
            self.write_epoch(summary)
            self.sync()

    def cleanup_fit(self, learner: Learner) -> None:
        if self._is_open:
            if learner.engine.world_size == 1:  # a failed rank must not wait in a collective
                self._flush()
            if self._is_rank_zero:
                self.close()
        self._is_open, self._finished = False, True

    def _flush(self) -> None:
        for epoch, step, values in self._step_values.pop() if self._step_values is not None else ():
            if self._is_rank_zero:
                self.write_step(epoch, step, values)

    def state_dict(self) -> dict[str, Any]:
        if not self._finished:
            self._open_once()
            self._flush()
            if self._is_rank_zero:
                self.sync()
        return super().state_dict()
