"""What all logs of a fit have in common: one entry for every epoch, and for every so many steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from dashpot.constraints import Interval, Optional, check
from dashpot.errors import ArgumentError
from dashpot.tasks.means import FLUSH
from dashpot.training.callbacks.epoch_summary import PerEpoch, Row
from dashpot.training.callbacks.recorder import Recorder

if TYPE_CHECKING:
    from dashpot.training.learner import Learner

__all__ = ["Logger"]

EVERY = Optional(Interval(1, math.inf, "left", integer=True))


class Logger(PerEpoch):
    """Base of loggers: one entry for every epoch, and with `every` one for every so many steps.

    A subclass defines `write_epoch` and `write_step`, which the first process alone calls, and `begin`, `settle` and
    `end` where it needs them. Values of steps are read in groups, in all processes.
    """

    order: ClassVar[int] = 60
    essential: ClassVar[bool] = False

    def __init__(self, every: int | None, values: Sequence[str]) -> None:
        check(type(self).__name__, "every", every, EVERY)
        if isinstance(values, str):
            raise ArgumentError(f"{type(self).__name__}: values must be a list of names, got the text {values!r}.")
        self.every, self.values = every, tuple(values)
        self._steps = _Steps(*(name for name in self.values if name != "loss"))
        self._begun = False

    # ---- for subclasses ---------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """The fit is about to write, after a resume has put its state back and all have accepted theirs."""

    def write_epoch(self, row: Row) -> None:
        """An epoch is over."""
        raise NotImplementedError

    def write_step(self, epoch: int, step: int, values: Mapping[str, float]) -> None:
        """A step of an epoch, both from 1, was taken; `values` begins with its loss."""
        raise NotImplementedError

    def settle(self) -> None:
        """Everything so far has to be where a killed process cannot lose it."""

    def end(self) -> None:
        """The fit is over."""

    # ---- events -----------------------------------------------------------------------------------------------------

    def before_fit(self, learner: Learner) -> None:
        super().before_fit(learner)
        self._first, self._begun, self._over = learner.engine.is_rank_zero, False, False
        self._marks: list[tuple[int, int]] = []
        self._metrics, self._phases = tuple(learner.metrics), dict(learner.phases)
        if self.every:
            self._steps.before_fit(learner)

    def before_epoch(self, learner: Learner) -> None:
        super().before_epoch(learner)
        self._start()

    def _start(self) -> None:
        """Begin, with the first epoch or the first checkpoint: a state says what is in the file."""
        if not self._begun and self._first:
            self.begin()
        self._begun = True

    def after_backward(self, learner: Learner) -> None:
        if self._is_due(learner):
            self._steps.after_backward(learner)

    def cleanup_batch(self, learner: Learner) -> None:
        if self._is_due(learner):
            self._steps.cleanup_batch(learner)

    def step(self, learner: Learner, proceed: Callable[[], None]) -> None:
        if not self._is_due(learner):
            super().step(learner, proceed)
            return
        super().step(learner, lambda: self._steps.step(learner, proceed))
        if learner.stepped:
            self._marks.append((learner.epoch + 1, learner.steps + 1))  # the step counts once all have passed it on
        if len(self._marks) == FLUSH:
            self._flush()

    def _is_due(self, learner: Learner) -> bool:
        return self.every is not None and (learner.steps + 1) % self.every == 0

    def row(self, learner: Learner, row: Row) -> None:
        self._start()  # where the epoch was left out before this was told of it
        self._flush()
        if self._first:
            self.write_epoch(row)
            self.settle()

    def cleanup_fit(self, learner: Learner) -> None:
        if self._begun:
            if learner.engine.world_size == 1:  # one process that fails must not wait for the others
                self._flush()
            if self._first:
                self.end()
        self._begun, self._over = False, True

    def _flush(self) -> None:
        for (epoch, step), values in zip(self._marks, self._steps.taken(), strict=True):
            if self._first:
                self.write_step(epoch, step, values)
        self._marks.clear()

    def state_dict(self) -> dict[str, Any]:
        if not self._over:
            self._start()
            self._flush()
            if self._first:
                self.settle()
        return super().state_dict()


class _Steps(Recorder):
    """A recorder that gives its rows away."""

    def taken(self) -> list[dict[str, float]]:
        """The rows since the last time."""
        self._flush()
        columns, self._read = self._read, {name: [] for name in self._read}
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
