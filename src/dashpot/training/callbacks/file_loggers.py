"""Text file loggers: JSON lines and CSV."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from dashpot.constraints import FLAG, check, shown
from dashpot.errors import ArgumentError, RunError
from dashpot.runs.files import make_folder, truncate, write_bytes, write_error
from dashpot.training.callbacks.csv_columns import add_columns, first_columns, read_header, to_line
from dashpot.training.callbacks.epoch_summary import EpochSummary
from dashpot.training.callbacks.logger import Logger
from dashpot.utils.schema import COUNT, TEXT, ListOf, Rule, Text, extended
from dashpot.utils.strict_json import encode
from dashpot.utils.warn import warn

if TYPE_CHECKING:
    from dashpot.training.learner import Learner


class FileLogger(Logger):
    """Base class of text file loggers. A resumed fit truncates the file to the length stored in the checkpoint."""

    state_schema: ClassVar[Rule] = extended(
        Logger.state_schema, {"path": TEXT, "bytes": COUNT, "sha256": Text("[0-9a-f]{64}", "a SHA-256 checksum")}
    )

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        every: int | None = None,
        values: Sequence[str] = ("lr",),
        replace: bool = False,
        append: bool = False,
    ) -> None:
        super().__init__(every, values)
        check(type(self).__name__, "replace", replace, FLAG)
        check(type(self).__name__, "append", append, FLAG)
        if replace and append:
            raise ArgumentError(f"{type(self).__name__}: append and replace must not both be True.")
        if not isinstance(path, (str, os.PathLike)):
            raise ArgumentError(f"{type(self).__name__}: path must be a path, got {shown(path)}.")
        self.path, self.replace, self.append = Path(path), replace, append

    def before_fit(self, learner: Learner) -> None:
        super().before_fit(learner)
        self._resumed, self._reverted = False, None
        self._length, self._digest = 0, hashlib.sha256()

    def open(self) -> None:
        make_folder(self.path.parent)
        exists = not self._resumed and self.path.is_file() and self.path.stat().st_size > 0
        if exists and not (self.replace or self.append):
            raise RunError(
                f"{type(self).__name__}: {self.path} belongs to a different run; use a different path, append=True or "
                "replace=True."
            )
        if exists and self.append:
            content = self.path.read_bytes()
            self._continue_after(content[: content.rfind(b"\n") + 1])  # drops an incomplete last line
        if self._reverted is not None:  # at this time, all callbacks have accepted their states
            write_bytes(self.path, self._reverted)
        elif self._resumed:
            truncate(self.path, self._length)
        else:
            self._append("", fresh=True)
        self._reverted = None
        self.write_header()

    def _continue_after(self, content: bytes) -> None:
        """Append entries to the given contents of the file.

        Raises:
            RunError: If entries of this fit cannot be appended to `content`.
        """
        self._length, self._digest, self._resumed = len(content), hashlib.sha256(content), True

    def _rewrite(self, content: bytes) -> None:
        """Replace the contents of the file atomically."""
        write_bytes(self.path, content)
        self._continue_after(content)

    def write_header(self) -> None:
        """Write the header, if the format has one, before the first entry of a fit."""

    def write_line(self, line: str) -> None:
        """Append a line to the file."""
        self._append(line + "\n")

    def _append(self, text: str, fresh: bool = False) -> None:
        content = text.encode()
        try:
            with self.path.open("wb" if fresh else "ab") as file:
                file.write(content)
        except OSError as error:
            raise write_error(self.path, error) from error
        self._length += len(content)
        self._digest.update(content)

    def sync(self) -> None:
        try:
            with self.path.open("ab") as file:
                os.fsync(file.fileno())
        except OSError as error:
            raise write_error(self.path, error) from error

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the logger, with the path, length and checksum of the file, which rank 0 writes."""
        inherited = super().state_dict()  # writes pending entries
        place = {"path": str(self.path.resolve()), "bytes": self._length, "sha256": self._digest.hexdigest()}
        return {**inherited, **place}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the position in the file; the file is truncated before the fit writes its first entry.

        Raises:
            RunError: If the file does not start with the contents that it had at the checkpoint.
        """
        super().load_state_dict(state)
        if not self._is_rank_zero or (state["bytes"] == 0 and state["path"] != str(self.path.resolve())):
            return
        if not self.path.exists():
            if state["bytes"]:
                warn(f"{self.path} is missing; its entries before the checkpoint are lost.")
            return
        content = self.path.read_bytes()
        kept = self._contents_at(state, content)
        if hashlib.sha256(kept).hexdigest() != state["sha256"]:
            raise RunError(
                f"{self.path} does not start with the entries at the checkpoint; move the file away to resume without "
                "them."
            )
        self._continue_after(kept)
        self._reverted = None if content.startswith(kept) else kept

    def _contents_at(self, state: dict[str, Any], content: bytes) -> bytes:
        """Return the contents that the file had at a checkpoint, computed from its present contents."""
        return content[: state["bytes"]]


class JSONLines(FileLogger):
    """Logger that writes JSON lines, one object per line.

        {"kind": "epoch", "epoch": 1, "step": 106, "train": {"loss": ..}, "eval": {..}, "lr": .., "seconds": ..}
        {"kind": "step", "epoch": 1, "step": 100, "loss": .., "lr": ..}

    In an epoch entry, `step` is the number of steps up to the end of the epoch, and `lr` is the learning rate of the
    last step in the epoch. Non-finite numbers are written as the strings "nan", "inf" and "-inf". A resumed fit neither
    loses nor repeats entries, whichever checkpoint it resumes from.

    Args:
        path: Path of the file; missing parent folders are created.
        every: Number of steps between step entries, an integer >= 1; None for epoch entries only.
        values: Names of the values in step entries, in addition to the loss; see `Recorder` for the names.
        replace: Whether to overwrite the file of a different run.
        append: Whether to append to the file of a different run.

    Raises:
        ArgumentError: If an argument has the wrong type or is out of range.
        RunError: When the fit begins, if the file belongs to a different run or cannot be written.

    Example:
        >>> import tempfile
        >>> from dashpot import AdamW, tasks
        >>> from dashpot.training import Engine, Learner
        >>> learner = Learner.of(tasks.get("digits").build(0), AdamW, lr=0.01, engine=Engine("cpu"))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     learner.fit(1, callbacks=[JSONLines(Path(folder, "log.jsonl"), every=10)])
        ...     print(Path(folder, "log.jsonl").read_text())
        {"kind":"step","epoch":1,"step":10,"loss":...,"lr":0.01}
        {"kind":"step","epoch":1,"step":20,"loss":...,"lr":0.01}
        {"kind":"epoch","epoch":1,"step":24,"train":{"loss":...,"accuracy":...},"eval":{...},"lr":0.01,"seconds":...}
        <BLANKLINE>
    """

    def write_epoch(self, summary: EpochSummary) -> None:
        numbers = {"train": summary.train, "eval": summary.evaluation, "lr": summary.lr, "seconds": _seconds(summary)}
        self.write_line(encode({"kind": "epoch", "epoch": summary.number, "step": summary.steps, **numbers}))

    def write_step(self, epoch: int, step: int, values: Mapping[str, float]) -> None:
        self.write_line(encode({"kind": "step", "epoch": epoch, "step": step, **values}))


class CSV(FileLogger):
    """Logger that writes a CSV file with a header.

        epoch,step,train_loss,train_accuracy,eval_loss,eval_accuracy,lr,seconds

    With `every`, the file also has rows for steps. The first column, `kind`, is then "epoch" or "step", and additional
    columns contain the loss and the values of the step. Cells without a value are empty. A resumed fit neither loses
    nor repeats rows, whichever checkpoint it resumes from.

    The header always describes every row of the file. Names without a column are added at the end of the header, with
    empty cells in earlier rows: metrics and `values` that the fit that began the file did not have, the columns of
    step entries, and names logged for the first time after the first row. Columns without new values remain, with empty
    cells in later rows.

    Args:
        path: Path of the file; missing parent folders are created.
        every: Number of steps between step rows, an integer >= 1; None for epoch rows only.
        values: Names of the values in step rows, in addition to the loss; see `Recorder` for the names.
        replace: Whether to overwrite the file of a different run.
        append: Whether to append to the file of a different run.

    Raises:
        ArgumentError: If an argument has the wrong type or is out of range.
        RunError: When the fit begins, if the file belongs to a different run or cannot be written.

    Example:
        >>> import tempfile
        >>> from dashpot import AdamW, tasks
        >>> from dashpot.training import Engine, Learner
        >>> learner = Learner.of(tasks.get("digits").build(0), AdamW, lr=0.01, engine=Engine("cpu"))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     learner.fit(2, callbacks=[CSV(Path(folder, "log.csv"))])
        ...     print(Path(folder, "log.csv").read_text())
        epoch,step,train_loss,train_accuracy,eval_loss,eval_accuracy,lr,seconds
        1,24,...,0.01,...
        2,48,...,0.01,...
        <BLANKLINE>
    """

    state_schema: ClassVar[Rule] = extended(FileLogger.state_schema, {}, {"columns": ListOf(TEXT)})

    @property
    def columns(self) -> list[str]:
        """Names of the columns; available once a fit has begun."""
        return list(self._header) or self._initial_columns()

    def _initial_columns(self) -> list[str]:
        phases = [phase for phase in ("train", "eval") if self._phases[phase]]
        means = [f"{phase}_{name}" for phase in phases for name in ("loss", *self._metrics)]
        own = [] if self._step_values is None else [name for name in self._step_values.names if name != "lr"]
        return [
            *(["kind"] if self.every else []),
            *("epoch", "step"),
            *own,
            *means,
            *("lr", "seconds"),
        ]

    def before_fit(self, learner: Learner) -> None:
        super().before_fit(learner)
        self._header: list[str] = []

    def write_header(self) -> None:
        if self._length == 0:
            self._header = self._initial_columns()
            self.write_line(to_line(self._header))
        self._add_columns(self._initial_columns())

    def _continue_after(self, content: bytes) -> None:
        header = read_header(content)
        if header and not {"epoch", "step"} <= set(header):
            raise RunError(
                f"CSV: {self.path} must have a header with the columns epoch and step, such as "
                f"{to_line(self._initial_columns())!r}, got {to_line(header)!r}; use a different path or replace=True."
            )
        super()._continue_after(content)
        self._header = header

    def _contents_at(self, state: dict[str, Any], content: bytes) -> bytes:
        return first_columns(content, state.get("columns", ()), state["bytes"])

    def state_dict(self) -> dict[str, Any]:
        inherited = super().state_dict()  # opens the file
        return {**inherited, "columns": list(self._header)}

    def write_epoch(self, summary: EpochSummary) -> None:
        means = {f"{phase}_{name}": value for phase, values in summary.phases.items() for name, value in values.items()}
        own = {"epoch": summary.number, "step": summary.steps, "lr": summary.lr, "seconds": _seconds(summary)}
        self._write_cells({"kind": "epoch", **means, **own})

    def write_step(self, epoch: int, step: int, values: Mapping[str, float]) -> None:
        self._write_cells({"kind": "step", "epoch": epoch, "step": step, **values})

    def _write_cells(self, cells: Mapping[str, Any]) -> None:
        self._add_columns(name for name in cells if name != "kind")
        self.write_line(to_line(cells.get(name) for name in self._header))

    def _add_columns(self, names: Iterable[str]) -> None:
        """Add the columns that the header does not contain; cells of earlier rows are empty."""
        new = [name for name in names if name not in self._header]
        if not new:
            return
        try:
            content = add_columns(self.path.read_bytes()[: self._length], new)
        except ValueError as error:
            raise RunError(f"CSV: {self.path} must be a CSV file, to which {', '.join(new)} can be added.") from error
        self._rewrite(content)


def _seconds(summary: EpochSummary) -> float | None:
    return None if summary.seconds is None else round(summary.seconds, 4)
