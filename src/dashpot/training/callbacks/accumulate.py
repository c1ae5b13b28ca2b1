"""Steps of the optimizer that are made of several batches."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar

from dashpot.constraints import Interval, check
from dashpot.training.callback import Callback

if TYPE_CHECKING:
    from dashpot.training.learner import Learner

__all__ = ["Accumulate"]


class Accumulate(Callback):
    """Lets the optimizer step once for every `batches` batches, and for what is left of them at the end of an epoch.

    The gradient of a step is that of the mean loss over all examples of its batches, so that 4 batches of b do what one
    of 4 b does, but for layers that look at a batch as a whole, such as batch norm. Where the data do not tell how many
    examples a batch holds (they do as `dashpot.data.Batches` and as a `DataLoader` with a `batch_size`), its batches
    count alike. Schedules, the recorder and `learner.steps` count steps, not batches. A state can be taken between
    steps only.

    Args:
        batches: integer >= 1.

    Raises:
        ArgumentError: `batches` is out of range.

    >>> from dashpot import AdamW, tasks
    >>> from dashpot.training import Engine, Learner
    >>> learner = Learner.of(tasks.get("digits").build(0), AdamW, lr=0.01, engine=Engine("cpu"))
    >>> learner.fit(1, callbacks=[Accumulate(4)])
    >>> len(learner.train), learner.steps
    (30, 8)
    """

    order: ClassVar[int] = -20

    def __init__(self, batches: int) -> None:
        check("Accumulate", "batches", batches, Interval(1, math.inf, "left", integer=True))
        self.batches = int(batches)

    def before_fit(self, learner: Learner) -> None:
        learner.loop.accumulate = self.batches  # every fit begins with 1; after it, its state still says what it was
