"""How a run ended, and the last line that tells it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from dashpot.runs.eta import duration
from dashpot.runs.records import Run
from dashpot.runs.table import score_text
from dashpot.training.run.folder import RunFolder

__all__ = ["RunResult", "counted"]


@dataclass(frozen=True)
class RunResult:
    """How a run ended: "done", "stopped" (early, because it no longer improved) or "diverged"; and its record."""

    folder: RunFolder
    run: Run

    @property
    def status(self) -> str:
        """`done` or `diverged`."""
        return self.run.status

    def text(self) -> str:
        """The last line that a user reads."""
        end = self.run.end
        assert end is not None
        again = f"Again: {self.folder.restart_command}"
        if end["status"] == "diverged":
            what = "gradients are not finite" if end["loss"] not in ("nan", "inf") else f"the loss is {end['loss']}"
            return f"Diverged at step {end['step'] + 1}: {what}. {again}"
        last = self.run.epochs[-1]
        seconds = duration(math.fsum(epoch["wall_s"] for epoch in self.run.epochs))
        phase = "eval" if last["eval"] else "train"
        why = f" Stopped early: {end['reason']}." if "reason" in end else ""
        epochs = counted(last["epoch"], "epoch")
        return f"{phase} {score_text(last[phase])} after {epochs}, {seconds} of training.{why} {again}"


def counted(number: int, one: str, more: str = "s") -> str:
    """A number of things in words.

    >>> counted(1, "epoch"), counted(2, "batch", "es"), counted(0, "epoch")
    ('1 epoch', '2 batches', '0 epochs')
    """
    return f"{number} {one}{'' if number == 1 else more}"
