"""Result of a run and its summary line."""

from __future__ import annotations

import math
from dataclasses import dataclass

from dashpot.runs.records import Run
from dashpot.runs.table import score_text
from dashpot.training.run.folder import RunFolder
from dashpot.utils.format import counted, duration
from dashpot.utils.terminal import printable


@dataclass(frozen=True)
class RunResult:
    """Folder and record of a run that has ended."""

    folder: RunFolder
    run: Run

    @property
    def status(self) -> str:
        """`done` or `diverged`; a run that was stopped early is `done`."""
        return self.run.status

    def text(self) -> str:
        """Return the summary line: score, duration, and the command that repeats the run."""
        return printable(self._text())

    def _text(self) -> str:
        end = self.run.end
        assert end is not None
        repeat = f"Repeat with: {self.folder.repeat_command}"
        if end["status"] == "diverged":
            cause = "non-finite gradients" if end["loss"] not in ("nan", "inf") else f"the loss is {end['loss']}"
            return f"Diverged at step {end['step'] + 1}: {cause}. {repeat}"
        last = self.run.epochs[-1]
        seconds = duration(math.fsum(epoch["wall_s"] for epoch in self.run.epochs))
        phase = "eval" if last["eval"] else "train"
        reason = f" Stopped early: {end['reason']}." if "reason" in end else ""
        settings = self.run.header.get("run", {})
        by_steps = any(name in settings for name in ("steps", "evaluate_every", "max_time"))
        length = counted(last["steps"], "step") if by_steps else counted(last["epoch"], "epoch")
        return f"{phase} {score_text(last[phase])} after {length}, {seconds} of training.{reason} {repeat}"
