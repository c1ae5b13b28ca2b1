"""Steps at which all ranks exchange requests to stop."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dashpot.training.learner import Learner

POLL_STEPS = 8
"""Number of steps between exchanges of stop requests among ranks."""


class Polling:
    """Choice of the steps at which ranks communicate: all steps of a single process, else every 8th step.

    The last step of an epoch of known length is also included.
    """

    def __init__(self) -> None:
        self._steps = 0

    def is_due(self, learner: Learner) -> bool:
        """Return whether the ranks communicate after this step; must be called once after every step."""
        self._steps += 1
        last = learner.batch.index + 1 == learner.loop.plan.size(learner.epoch)
        return learner.engine.world_size == 1 or self._steps % POLL_STEPS == 0 or last
