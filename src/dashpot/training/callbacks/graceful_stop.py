"""Stopping a fit between two steps because the user wants it, with a checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar

from dashpot.runs.signals import Interrupted
from dashpot.training.callback import Callback

if TYPE_CHECKING:
    from dashpot.training.learner import Learner

__all__ = ["GracefulStop"]

POLL_STEPS = 8
"""Steps between two questions to the other processes whether they were asked to stop."""


class GracefulStop(Callback):
    """Saves and leaves the fit with `Interrupted` after the step during which `check` begins to raise it.

    A wish that comes while the model is evaluated is met after the evaluation, with the checkpoint of the epoch's end;
    the last epoch is then finished. Several processes stop after the same step.

    Args:
        check: raises `Interrupted` once the user has asked to stop, as the function of `interruptible` does.
        save: writes a checkpoint; every process calls it.
    """

    order: ClassVar[int] = 95
    essential: ClassVar[bool] = False

    def __init__(self, check: Callable[[], None], save: Callable[[Learner], object]) -> None:
        self.check, self.save = check, save
        self._exit_code = 0  # the exit code that the wish asks for here; 0: there was none

    def after_batch(self, learner: Learner) -> None:
        if learner.training and learner.batch.is_last_microbatch and self._stop_requested(learner):
            self.save(learner)
            raise self._interrupted(learner)

    def after_epoch(self, learner: Learner) -> None:
        if not learner.training and learner.epoch + 1 < learner.epochs and self._stop_requested(learner):
            raise self._interrupted(learner)

    def _stop_requested(self, learner: Learner) -> bool:
        done = learner.batch.index + 1
        between = done % (POLL_STEPS * learner.loop.accumulate) and done < len(learner.train)
        if learner.engine.world_size > 1 and learner.training and between:
            return False
        return learner.engine.any(self._stop_requested_here())

    def _stop_requested_here(self) -> bool:
        try:
            self.check()
        except Interrupted as request:
            self._exit_code = request.code
            return True
        return False

    def _interrupted(self, learner: Learner) -> Interrupted:
        """The same in every process, whichever of them was asked."""
        return Interrupted(code=max(learner.engine.all_gather(self._exit_code)))
