"""Logs that are files of lines: JSON and comma-separated values."""

from __future__ import annotations

import csv
import hashlib
import io
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dashpot.constraints import FLAG, check
from dashpot.errors import ArgumentError, RunError
from dashpot.runs.files import make_folder, truncate, write_error
from dashpot.training.callbacks.epoch_summary import EpochSummary
from dashpot.training.callbacks.logger import Logger
from dashpot.utils.strict_json import encode
from dashpot.utils.warn import warn

if TYPE_CHECKING:
    from dashpot.training.learner import Learner

__all__ = ["CSV", "JSONLines"]


class FileLogger(Logger):
    """Base of loggers into one file of lines; a resume continues the file where the checkpoint left it."""

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
            raise ArgumentError(f"{type(self).__name__}: append and replace are both given; a file is kept or not.")
        if not isinstance(path, (str, os.PathLike)):
            raise ArgumentError(f"{type(self).__name__}: path must be the path of a file, got {path!r}.")
        self.path, self.replace, self.append = Path(path), replace, append

    def before_fit(self, learner: Learner) -> None:
        super().before_fit(learner)
        self._resumed = False
        self._length, self._digest = 0, hashlib.sha256()

    def open(self) -> None:
        make_folder(self.path.parent)
        there = not self._resumed and self.path.is_file() and self.path.stat().st_size > 0
        if there and not (self.replace or self.append):
            raise RunError(
                f"{type(self).__name__}: {self.path} is of another run; give another path, append=True or replace=True."
            )
        if there and self.append:
            self._resume_at(self.path.read_bytes().rfind(b"\n") + 1)  # not a line that was cut short
        if self._resumed:
            truncate(self.path, self._length)  # not before all have accepted the state that the fit goes on from
        else:
            self._append("", fresh=True)
        if self._length == 0:
            self.write_header()

    def _resume_at(self, length: int) -> None:
        """Go on after so many bytes of the file."""
        with self.path.open("rb") as file:
            self._digest.update(file.read(length))
        self._length, self._resumed = length, True

    def write_header(self) -> None:
        """Write what stands above all lines."""

    def write_line(self, line: str) -> None:
        """Add a line, which ends here."""
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
        """The length of the file and a checksum of what is in it, as the first process has written it."""
        inherited = super().state_dict()  # writes what waits
        place = {"path": str(self.path.resolve()), "bytes": self._length, "sha256": self._digest.hexdigest()}
        return {**inherited, **place}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with the file where it was then; it is cut back once the fit goes on.

        Raises:
            RunError: it is another file, or was changed.
        """
        super().load_state_dict(state)
        if not self._writes or (state["bytes"] == 0 and state["path"] != str(self.path.resolve())):
            return  # nothing of it to go on with
        if not self.path.exists():
            if state["bytes"]:
                warn(f"{self.path} is missing; its lines before the checkpoint are lost.")
            return
        self._resume_at(state["bytes"])
        if self._digest.hexdigest() != state["sha256"]:
            raise RunError(
                f"{self.path} does not begin with the lines that the checkpoint goes on from; without the file the run "
                "goes on, too."
            )


class JSONLines(FileLogger):
    """Writes a file of JSON objects, one a line:

        {"kind": "epoch", "epoch": 1, "step": 118, "train": {"loss": ..}, "eval": {..}, "lr": .., "seconds": ..}
        {"kind": "step", "epoch": 1, "step": 100, "loss": .., "lr": ..}

    An epoch's `step` is the number of steps until its end, its `lr` the rate its last step used. Numbers that are not
    finite are the texts "nan", "inf" and "-inf". After a resume no line is missing or there twice, whichever checkpoint
    it goes on from.

    Args:
        path: the file; its folder is made where it is missing.
        every: steps for a line of steps; None for lines of epochs alone.
        values: what such lines hold beside the loss of the step, named as for `Recorder`.
        replace: whether a file of another run is overwritten.
        append: whether a file of another run is gone on with.

    Raises:
        ArgumentError: an argument is of the wrong kind or out of range.
        RunError: as the fit begins, the file holds lines of another run; or it cannot be written.

    >>> import tempfile
    >>> from dashpot import AdamW, tasks
    >>> from dashpot.training import Engine, Learner
    >>> learner = Learner.of(tasks.get("digits").build(0), AdamW, lr=0.01, engine=Engine("cpu"))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     learner.fit(1, callbacks=[JSONLines(Path(folder, "log.jsonl"), every=10)])
    ...     print(Path(folder, "log.jsonl").read_text())
    {"kind":"step","epoch":1,"step":10,"loss":...,"lr":0.01}
    {"kind":"step","epoch":1,"step":20,"loss":...,"lr":0.01}
    {"kind":"step","epoch":1,"step":30,"loss":...,"lr":0.01}
    {"kind":"epoch","epoch":1,"step":30,"train":{"loss":...,"accuracy":...},"eval":{...},"lr":0.01,"seconds":...}
    <BLANKLINE>
    """

    def write_epoch(self, summary: EpochSummary) -> None:
        numbers = {"train": summary.train, "eval": summary.evaluation, "lr": summary.lr, "seconds": _seconds(summary)}
        self.write_line(encode({"kind": "epoch", "epoch": summary.number, "step": summary.steps, **numbers}))

    def write_step(self, epoch: int, step: int, values: Mapping[str, float]) -> None:
        self.write_line(encode({"kind": "step", "epoch": epoch, "step": step, **values}))


class CSV(FileLogger):
    """Writes a file of comma-separated values under a line of names:

        epoch,step,train_loss,train_accuracy,eval_loss,eval_accuracy,lr,seconds

    With `every` there are lines of steps as well; a column `kind` in front then says "epoch" or "step", a column `loss`
    has the loss of the step, and further columns its values. Cells that a line has nothing for are empty. After a
    resume no line is missing or there twice, whichever checkpoint it goes on from.

    Args:
        path: the file; its folder is made where it is missing.
        every: steps for a line of steps; None for lines of epochs alone.
        values: what such lines hold beside the loss of the step, named as for `Recorder`.
        replace: whether a file of another run is overwritten.
        append: whether a file of another run is gone on with.

    Raises:
        ArgumentError: an argument is of the wrong kind or out of range.
        RunError: as the fit begins, the file holds lines of another run; or it cannot be written.

    >>> import tempfile
    >>> from dashpot import AdamW, tasks
    >>> from dashpot.training import Engine, Learner
    >>> learner = Learner.of(tasks.get("digits").build(0), AdamW, lr=0.01, engine=Engine("cpu"))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     learner.fit(2, callbacks=[CSV(Path(folder, "log.csv"))])
    ...     print(Path(folder, "log.csv").read_text())
    epoch,step,train_loss,train_accuracy,eval_loss,eval_accuracy,lr,seconds
    1,30,...,0.01,...
    2,60,...,0.01,...
    <BLANKLINE>
    """

    @property
    def columns(self) -> list[str]:
        """The names in the first line; known once a fit has begun."""
        phases = [phase for phase in ("train", "eval") if self._phases[phase]]
        means = [f"{phase}_{name}" for phase in phases for name in ("loss", *self._metrics)]
        own = ["loss", *(name for name in self.values if name not in ("lr", "loss"))]
        return [
            *(["kind"] if self.every else []),
            *("epoch", "step"),
            *(own if self.every else []),
            *means,
            *("lr", "seconds"),
        ]

    def write_header(self) -> None:
        self._write_csv(self.columns)

    def write_epoch(self, summary: EpochSummary) -> None:
        means = {
            f"{phase}_{name}": value
            for phase, found in (("train", summary.train), ("eval", summary.evaluation))
            for name, value in found.items()
        }
        own = {
            "kind": "epoch",
            "epoch": summary.number,
            "step": summary.steps,
            "lr": summary.lr,
            "seconds": _seconds(summary),
        }
        self._write_cells({**means, **own})

    def write_step(self, epoch: int, step: int, values: Mapping[str, float]) -> None:
        self._write_cells({"kind": "step", "epoch": epoch, "step": step, **values})

    def _write_cells(self, cells: Mapping[str, Any]) -> None:
        self._write_csv([cells.get(name) for name in self.columns])

    def _write_csv(self, cells: Iterable[Any]) -> None:
        text = io.StringIO()
        csv.writer(text, lineterminator="").writerow(["" if cell is None else cell for cell in cells])
        self.write_line(text.getvalue())


def _seconds(summary: EpochSummary) -> float | None:
    return None if summary.seconds is None else round(summary.seconds, 4)
