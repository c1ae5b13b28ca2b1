"""Gradient accumulation."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar

from dashpot.constraints import Interval, check
from dashpot.training.callback import Callback

if TYPE_CHECKING:
    from dashpot.training.learner import Learner


class Accumulate(Callback):
    """Gradient accumulation over `batches` micro-batches per optimizer step.

    The last step of an epoch may have fewer micro-batches. The accumulated gradient is the gradient of the mean loss
    over all examples of the step, or over all counts of a loss that returns (sum, count): 4 micro-batches of size b are
    equivalent to one batch of size 4 b. Exceptions are losses that depend on several examples of a batch, and layers
    with batch statistics, such as batch norm. A micro-batch that is cancelled before its backward pass is excluded.
    Schedules, `Recorder` and `learner.steps` count optimizer steps. Checkpoints can only be taken between steps.

    Args:
        batches: Number of micro-batches per step, an integer >= 1.

    Raises:
        ArgumentError: If `batches` is out of range.

    Example:
        >>> from dashpot import AdamW, tasks
        >>> from dashpot.training import Engine, Learner
        >>> learner = Learner.of(tasks.get("digits").build(0), AdamW, lr=0.01, engine=Engine("cpu"))
        >>> learner.fit(1, callbacks=[Accumulate(4)])
        >>> len(learner.train), learner.steps
        (24, 6)
    """

    order: ClassVar[int] = -20

    def __init__(self, batches: int) -> None:
        check("Accumulate", "batches", batches, Interval(1, math.inf, "left", integer=True))
        self.batches = int(batches)

    def before_fit(self, learner: Learner) -> None:
        learner.loop.accumulate = self.batches  # `fit` resets it to 1 at the start, not at the end
