"""Callback that records the intervals of a run, and resumes the record with the fit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from dashpot.errors import RunError
from dashpot.runs.environment import versions
from dashpot.runs.files import append_line, truncate
from dashpot.training import Epoch, Learner
from dashpot.training.loop import EpochStats
from dashpot.utils.schema import COUNT, Rule, extended
from dashpot.utils.strict_json import encode


class RecordedIntervals(EpochStats):
    """`EpochStats` whose state includes the length of the record, so that a resume can truncate the record."""

    state_name: ClassVar[str | None] = "_Recorded"
    state_schema: ClassVar[Rule] = extended(EpochStats.state_schema, {"bytes": COUNT})

    def __init__(self, record: Path, on_step: Callable[[int], None], on_epoch: Callable[[Epoch], None]) -> None:
        super().__init__(on_step, on_epoch)
        self.record = record
        self._resume_length: int | None = None

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "bytes": self.record.stat().st_size}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the measurements; the record is truncated once the fit has accepted the state."""
        super().load_state_dict(state)
        if self.record.stat().st_size < state["bytes"]:
            raise RunError(
                f"The record {self.record} is damaged: it is shorter than when the checkpoint was written. "
                "Delete it to repeat the run."
            )
        self._resume_length = state["bytes"]

    def before_epoch(self, learner: Learner) -> None:
        """In a resumed fit, truncate the record to its length at the checkpoint and append a `resumed` line."""
        if self._resume_length is not None:
            truncate(self.record, self._resume_length)
            done = learner.loop.position[0]
            append_line(self.record, encode({"kind": "resumed", "epochs": done, "versions": versions()}))
            self._resume_length = None
        super().before_epoch(learner)
