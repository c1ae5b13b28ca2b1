"""Limit of the wall-clock time of a fit."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, ClassVar

from dashpot.constraints import POSITIVE, check
from dashpot.training.callback import Callback
from dashpot.training.callbacks.polling import Polling
from dashpot.utils.format import duration
from dashpot.utils.schema import SECONDS, Record, Rule

if TYPE_CHECKING:
    from dashpot.training.learner import Learner


class TimeLimit(Callback):
    """End the fit after the step that exceeds a time limit, with an evaluation of the unfinished epoch.

    The time runs from the start of the fit, including evaluation and checkpoints. It is saved, so that a resumed fit
    continues to count. If the limit is exceeded within an epoch, `learner.loop.cut_at` is set: the training phase ends
    after the step, `Checkpoints` writes a checkpoint, the evaluation runs, and the fit ends. A fit that resumes from
    this checkpoint with a higher limit continues with the next batch. With several processes, the limit applies to the
    time on rank 0.

    Args:
        seconds: Time limit in seconds, > 0.

    Raises:
        ArgumentError: If `seconds` is out of range.
    """

    order: ClassVar[int] = 85
    essential: ClassVar[bool] = False
    state_schema: ClassVar[Rule] = Record({"seconds": SECONDS})

    def __init__(self, seconds: float) -> None:
        check("fit", "max_time", seconds, POSITIVE)
        self.seconds = float(seconds)

    def before_fit(self, learner: Learner) -> None:
        self._learner, self._polling = learner, Polling()
        self._spent, self._start = 0.0, time.monotonic()

    @property
    def spent(self) -> float:
        """Seconds since the start of the fit, including earlier sessions."""
        return self._spent + time.monotonic() - self._start

    def after_batch(self, learner: Learner) -> None:
        if learner.training and learner.batch.is_last_microbatch and self._polling.is_due(learner):
            complete = learner.batch.index + 1 == learner.loop.plan.size(learner.epoch)
            if self._is_exceeded(learner) and not complete:
                self._cut(learner)

    def cleanup_epoch(self, learner: Learner) -> None:
        """End the fit if the limit is exceeded after the last phase of an epoch that is not the last."""
        done = learner.loop.position == (learner.epoch + 1, 0) and learner.loop.unwinding is None
        if done and learner.epoch + 1 < learner.epochs and self._is_exceeded(learner):
            self._set_reason(learner)

    def _is_exceeded(self, learner: Learner) -> bool:
        return learner.engine.broadcast(self.spent >= self.seconds)

    def _cut(self, learner: Learner) -> None:
        learner.loop.cut_at = learner.loop.position
        self._set_reason(learner)

    def _set_reason(self, learner: Learner) -> None:
        learner.stop_reason = learner.stop_reason or f"the time limit of {duration(self.seconds)} is reached"

    def state_dict(self) -> dict[str, Any]:
        return {"seconds": self.spent}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the time spent; if it exceeds the limit, end the fit, after the evaluation of an unfinished epoch."""
        self._spent, self._start = state["seconds"], time.monotonic()
        if self._spent < self.seconds:
            return
        if self._learner.loop.position[1]:
            self._cut(self._learner)
        elif self._learner.loop.position[0] < self._learner.epochs:
            self._set_reason(self._learner)
