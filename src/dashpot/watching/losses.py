"""Means of the losses of some steps, for the trend of the loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from dashpot.watching.probe import Moment
from dashpot.watching.series import WatchRecord

STEPS = 8
"""Number of losses of a mean."""


class Losses:
    """Adds a row of kind "loss" for every eight losses, so that their trend does not depend on the budget.

    Rows: step, loss (their mean) and count, the number of losses. Tensors are read when the record is next read.
    """

    def __init__(self) -> None:
        self._losses: list[Tensor | float] = []

    def add(self, record: WatchRecord, moment: Moment) -> None:
        """Add the loss of a step, if it is known."""
        if moment.loss is None:
            return
        self._losses.append(moment.loss)
        if len(self._losses) == STEPS:
            losses, self._losses = self._losses, []
            record.add_later("loss", lambda: _row(moment.step, losses))


def _row(step: int, losses: Sequence[Tensor | float]) -> dict[str, Any]:
    return {"step": step, "loss": sum(map(float, losses)) / len(losses), "count": len(losses)}
