"""Graceful stop of a fit between two steps, after saving a checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar

from dashpot.runs.signals import Interrupted
from dashpot.training.callback import Callback
from dashpot.training.callbacks.polling import Polling

if TYPE_CHECKING:
    from dashpot.training.learner import Learner


class GracefulStop(Callback):
    """Callback that, once a stop is requested, saves a checkpoint after the current step and raises `Interrupted`.

    If the stop is requested during evaluation, the fit stops after the evaluation, with a checkpoint at the end of the
    epoch; in the last epoch, the fit completes. All ranks stop after the same step.

    Args:
        check: Function that raises `Interrupted` once a stop is requested, such as the one that `interruptible` yields.
        save: Function that writes a checkpoint, called on every rank.
    """

    order: ClassVar[int] = 95
    essential: ClassVar[bool] = False

    def __init__(self, check: Callable[[], None], save: Callable[[Learner], object]) -> None:
        self.check, self.save = check, save
        self._polling = Polling()
        self._exit_code = 0  # exit code of the stop request on this rank; 0 if there is no request

    def after_batch(self, learner: Learner) -> None:
        due = learner.training and learner.batch.is_last_microbatch and self._polling.is_due(learner)
        if due and self._stop_requested(learner):
            self.save(learner)
            raise self._interrupted(learner)

    def after_epoch(self, learner: Learner) -> None:
        if not learner.training and learner.epoch + 1 < learner.epochs and self._stop_requested(learner):
            raise self._interrupted(learner)

    def _stop_requested(self, learner: Learner) -> bool:
        return learner.engine.any(self._stop_requested_here())

    def _stop_requested_here(self) -> bool:
        try:
            self.check()
        except Interrupted as request:
            self._exit_code = request.code
            return True
        return False

    def _interrupted(self, learner: Learner) -> Interrupted:
        """Return the `Interrupted` exception to raise, with the same exit code on every rank."""
        return Interrupted(code=max(learner.engine.all_gather(self._exit_code)))
