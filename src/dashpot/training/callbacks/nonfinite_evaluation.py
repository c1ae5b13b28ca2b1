"""Search for the first batch of an evaluation with a non-finite loss."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from torch import Tensor

from dashpot.errors import DashpotError
from dashpot.training.callback import CancelBatch
from dashpot.training.callbacks.nonfinite_trace import label
from dashpot.training.loop_state import Batch
from dashpot.training.side_pass import release_output, side_pass

if TYPE_CHECKING:
    from dashpot.training.learner import Learner


def first_nonfinite_batch(learner: Learner) -> tuple[Batch, Tensor] | None:
    """Repeat the evaluation up to the first non-finite loss, and return the batch without its output, and its loss.

    The event `before_batch` and the actions `predict` and `get_loss` are called; other events are not. The learner, the
    loader and the random states are restored, but the output and the loss of the current batch are released. The result
    is None if the data cannot be read again, or all losses are finite. All ranks must call this function.
    """
    current, event, loader = learner.batch, learner.loop.event, learner.loop.loader
    release_output(learner)
    try:
        with side_pass(loader):
            for index, batch in enumerate(loader.batches(learner.epoch)):
                learner.batch, batch.index = batch, index
                with suppress(CancelBatch):
                    learner.loop.fit_loop.notify("before_batch")
                    learner.loop.fit_loop.compute_loss()
                bad = batch.size > 0 and batch.loss is not None and label(batch.loss) is not None
                if learner.engine.any(bad):
                    loss: Any = batch.loss
                    return replace(batch, output=None, loss=None), loss.detach()
    except DashpotError:  # an iterator without a second pass
        return None
    finally:
        learner.batch, learner.loop.event = current, event
    return None
