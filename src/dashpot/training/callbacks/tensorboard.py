"""A log for TensorBoard."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dashpot.constraints import FLAG, check
from dashpot.errors import ArgumentError, RunError
from dashpot.runs.files import make_folder, write_error
from dashpot.training.callbacks.epoch_summary import EpochSummary
from dashpot.training.callbacks.logger import Logger

if TYPE_CHECKING:
    from dashpot.training.learner import Learner

__all__ = ["TensorBoard"]


class TensorBoard(Logger):
    """Writes events for TensorBoard: `train/loss`, `eval/loss`, ..., `epoch/lr` and `epoch/seconds` after every epoch,
    and with `every` `step/loss`, `step/lr`, ...; all against the steps of the optimizer.

    After a resume TensorBoard shows every number once: what was written after the checkpoint is marked as dropped.

    Args:
        folder: where the files of events go; it is made where it is missing.
        every: steps for numbers of steps; None for epochs alone.
        values: what is written of steps beside their loss, named as for `Recorder`.
        append: whether to write beside the events of another run.

    Raises:
        ArgumentError: an argument is of the wrong kind or out of range.
        RunError: tensorboard is not installed; as the fit begins, the folder holds events of another run, or it cannot
            be written.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        every: int | None = None,
        values: Sequence[str] = ("lr",),
        append: bool = False,
    ) -> None:
        super().__init__(every, values)
        check("TensorBoard", "append", append, FLAG)
        if not isinstance(folder, (str, os.PathLike)):
            raise ArgumentError(f"TensorBoard: folder must be the path of a folder, got {folder!r}.")
        self.folder, self.append = Path(folder), append
        self._make_writer = _summary_writer()

    def before_fit(self, learner: Learner) -> None:
        super().before_fit(learner)
        self._resumed, self._last_step = False, 0
        self._last_values: dict[str, float] = {}

    def open(self) -> None:
        there = not self._resumed and any(self.folder.glob("events.out.tfevents.*"))
        if there and not self.append:
            raise RunError(
                f"TensorBoard: {self.folder} holds events of another run; give another folder, or append=True."
            )
        make_folder(self.folder)
        try:
            # Events from this step on that an earlier session has written are dropped by whoever reads them.
            self.writer = self._make_writer(str(self.folder), purge_step=self._last_step if self._resumed else None)
        except OSError as error:
            raise write_error(self.folder, error) from error
        for tag, value in self._last_values.items():
            self.writer.add_scalar(tag, value, self._last_step)

    def write_epoch(self, summary: EpochSummary) -> None:
        means = {f"{phase}/{name}": v for phase, found in _phases(summary).items() for name, v in found.items()}
        rest = {"epoch/lr": summary.lr, "epoch/seconds": summary.seconds}
        self._add(summary.steps, means | {tag: value for tag, value in rest.items() if value is not None})

    def write_step(self, epoch: int, step: int, values: Mapping[str, float]) -> None:
        self._add(step, {f"step/{name}": value for name, value in values.items()})

    def _add(self, step: int, values: Mapping[str, float]) -> None:
        if step != self._last_step:
            self._last_step, self._last_values = step, {}
        self._last_values |= values
        for tag, value in values.items():
            self.writer.add_scalar(tag, value, step)

    def sync(self) -> None:
        self.writer.flush()

    def close(self) -> None:
        self.writer.close()

    def state_dict(self) -> dict[str, Any]:
        """The last step with numbers, and these: a purge at that step takes them as well."""
        inherited = super().state_dict()  # writes what waits
        return {**inherited, "at": self._last_step, "last": dict(self._last_values)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self._resumed, self._last_step, self._last_values = True, state["at"], dict(state["last"])


def _phases(summary: EpochSummary) -> dict[str, dict[str, float]]:
    return {"train": summary.train, "eval": summary.evaluation}


def _summary_writer() -> Callable[..., Any]:
    try:
        from torch.utils.tensorboard.writer import SummaryWriter
    except ImportError as error:
        raise RunError("TensorBoard needs tensorboard: pip install 'dashpot[tensorboard]'.") from error
    return SummaryWriter
