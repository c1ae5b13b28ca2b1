"""A log for TensorBoard."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dashpot.constraints import FLAG, check
from dashpot.errors import ArgumentError, RunError
from dashpot.runs.files import make_folder, write_error
from dashpot.training.callbacks.epoch_summary import Row
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
        self._open = _writer()

    def before_fit(self, learner: Learner) -> None:
        super().before_fit(learner)
        self._goes_on, self._at = False, 0
        self._last: dict[str, float] = {}

    def begin(self) -> None:
        there = not self._goes_on and any(self.folder.glob("events.out.tfevents.*"))
        if there and not self.append:
            raise RunError(
                f"TensorBoard: {self.folder} holds events of another run; give another folder, or append=True."
            )
        make_folder(self.folder)
        try:
            # Events from this step on that an earlier session has written are dropped by whoever reads them.
            self.writer = self._open(str(self.folder), purge_step=self._at if self._goes_on else None)
        except OSError as error:
            raise write_error(self.folder, error) from error
        for tag, value in self._last.items():
            self.writer.add_scalar(tag, value, self._at)

    def write_epoch(self, row: Row) -> None:
        means = {f"{phase}/{name}": v for phase, found in _phases(row).items() for name, v in found.items()}
        rest = {"epoch/lr": row.lr, "epoch/seconds": row.seconds}
        self._add(row.steps, means | {tag: value for tag, value in rest.items() if value is not None})

    def write_step(self, epoch: int, step: int, values: Mapping[str, float]) -> None:
        self._add(step, {f"step/{name}": value for name, value in values.items()})

    def _add(self, step: int, values: Mapping[str, float]) -> None:
        if step != self._at:
            self._at, self._last = step, {}
        self._last |= values
        for tag, value in values.items():
            self.writer.add_scalar(tag, value, step)

    def settle(self) -> None:
        self.writer.flush()

    def end(self) -> None:
        self.writer.close()

    def state_dict(self) -> dict[str, Any]:
        """The last step with numbers, and these: a purge at that step takes them as well."""
        inherited = super().state_dict()  # writes what waits
        return {**inherited, "at": self._at, "last": dict(self._last)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self._goes_on, self._at, self._last = True, state["at"], dict(state["last"])


def _phases(row: Row) -> dict[str, dict[str, float]]:
    return {"train": row.train, "eval": row.evaluation}


def _writer() -> Callable[..., Any]:
    try:
        from torch.utils.tensorboard.writer import SummaryWriter
    except ImportError as error:
        raise RunError("TensorBoard needs tensorboard: pip install 'dashpot[tensorboard]'.") from error
    return SummaryWriter
