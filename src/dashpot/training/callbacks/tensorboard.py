"""Logger for TensorBoard."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from dashpot.constraints import FLAG, check, shown
from dashpot.errors import ArgumentError, RunError
from dashpot.runs.files import make_folder, write_error
from dashpot.training.callbacks.epoch_summary import EpochSummary
from dashpot.training.callbacks.logger import Logger
from dashpot.utils.schema import COUNT, REAL, MapOf, Rule, extended

if TYPE_CHECKING:
    from dashpot.training.learner import Learner


class TensorBoard(Logger):
    """Logger that writes TensorBoard event files.

    The tags are `train/loss`, `eval/loss`, ..., `epoch/lr` and `epoch/seconds` for epochs and, if `every` is given,
    `step/loss`, `step/lr`, ... for steps. All values are logged against the optimizer step. After a resume, TensorBoard
    shows every value once, because events after the checkpoint are purged.

    Args:
        folder: Folder of the event files, created if missing.
        every: Number of steps between step values, an integer >= 1; None for epoch values only.
        values: Names of the step values, in addition to the loss; see `Recorder` for the names.
        append: Whether events may be added to a folder with events of a different run.

    Raises:
        ArgumentError: If an argument has the wrong type or is out of range.
        RunError: If tensorboard is not installed, or if the folder cannot be written or contains events of a different
            run when the fit begins.
    """

    state_schema: ClassVar[Rule] = extended(Logger.state_schema, {"at": COUNT, "last": MapOf(REAL)})

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
            raise ArgumentError(f"TensorBoard: folder must be a path, got {shown(folder)}.")
        self.folder, self.append = Path(folder), append
        self._make_writer = _summary_writer()

    def before_fit(self, learner: Learner) -> None:
        super().before_fit(learner)
        self._resumed, self._last_step = False, 0
        self._last_values: dict[str, float] = {}

    def open(self) -> None:
        exists = not self._resumed and any(self.folder.glob("events.out.tfevents.*"))
        if exists and not self.append:
            raise RunError(
                f"TensorBoard: {self.folder} contains events of a different run; use a different folder or append=True."
            )
        make_folder(self.folder)
        try:
            # TensorBoard drops events of earlier sessions at and after the purge step.
            self.writer = self._make_writer(str(self.folder), purge_step=self._last_step if self._resumed else None)
        except OSError as error:
            raise write_error(self.folder, error) from error
        for tag, value in self._last_values.items():
            self.writer.add_scalar(tag, value, self._last_step)

    def write_epoch(self, summary: EpochSummary) -> None:
        means = {f"{phase}/{name}": v for phase, values in summary.phases.items() for name, v in values.items()}
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
        """Return the last step and its values, which are logged again after the purge at that step has dropped them."""
        inherited = super().state_dict()  # writes pending entries
        return {**inherited, "at": self._last_step, "last": dict(self._last_values)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self._resumed, self._last_step, self._last_values = True, state["at"], dict(state["last"])


def _summary_writer() -> Callable[..., Any]:
    try:
        from torch.utils.tensorboard.writer import SummaryWriter
    except ImportError as error:
        raise RunError("TensorBoard needs tensorboard: pip install 'dashpot[tensorboard]'.") from error
    return SummaryWriter
