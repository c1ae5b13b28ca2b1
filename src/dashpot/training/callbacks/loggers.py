"""Writing down what a fit measures: JSON lines, CSV, TensorBoard."""

from __future__ import annotations

import csv
import hashlib
import io
import math
import os
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from dashpot.constraints import FLAG, Interval, Optional, check
from dashpot.errors import ArgumentError, RunError
from dashpot.strict_json import encode
from dashpot.training.callbacks.recorder import Recorder
from dashpot.training.callbacks.rows import PerEpoch, Row
from dashpot.training.files import cannot_write, cut_back, make_folder
from dashpot.training.means import FLUSH

if TYPE_CHECKING:
    from dashpot.training.learner import Learner

__all__ = ["CSV", "JSONLines", "Logger", "TensorBoard"]

EVERY = Optional(Interval(1, math.inf, "left", integer=True))


class Logger(PerEpoch):
    """Base of loggers: one entry for every epoch, and with `every` one for every so many steps.

    A subclass defines `write_epoch` and `write_step`, which the first process alone calls, and `begin`, `settle` and
    `end` where it needs them. Values of steps are read in groups, in all processes.
    """

    order: ClassVar[int] = 60
    essential: ClassVar[bool] = False

    def __init__(self, every: int | None, values: Sequence[str]) -> None:
        check(type(self).__name__, "every", every, EVERY)
        if isinstance(values, str):
            raise ArgumentError(f"{type(self).__name__}: values must be a list of names, got the text {values!r}.")
        self.every, self.values = every, tuple(values)
        self._steps = _Steps(*(name for name in self.values if name != "loss"))
        self._begun = False

    # ---- for subclasses ---------------------------------------------------------------------------------------------

    def begin(self, learner: Learner) -> None:
        """The fit is about to write, after a resume has put its state back."""

    def write_epoch(self, row: Row) -> None:
        """An epoch is over."""
        raise NotImplementedError

    def write_step(self, epoch: int, step: int, values: Mapping[str, float]) -> None:
        """A step of an epoch, both from 1, was taken; `values` begins with its loss."""
        raise NotImplementedError

    def settle(self) -> None:
        """Everything so far has to be where a killed process cannot lose it."""

    def end(self) -> None:
        """The fit is over."""

    # ---- events -----------------------------------------------------------------------------------------------------

    def before_fit(self, learner: Learner) -> None:
        super().before_fit(learner)
        self._first, self._begun = learner.engine.first, False
        self._marks: list[tuple[int, int]] = []
        self._metrics, self._phases = tuple(learner.metrics), dict(learner.phases)
        if self.every:
            self._steps.before_fit(learner)

    def before_epoch(self, learner: Learner) -> None:
        super().before_epoch(learner)
        if not self._begun and self._first:
            self.begin(learner)
        self._begun = True

    def after_loss(self, learner: Learner) -> None:
        if self._is_due(learner):
            self._steps.after_loss(learner)

    def after_backward(self, learner: Learner) -> None:
        if self._is_due(learner):
            self._steps.after_backward(learner)

    def step(self, learner: Learner, proceed: Callable[[], None]) -> None:
        if not self._is_due(learner):
            super().step(learner, proceed)
            return
        super().step(learner, lambda: self._steps.step(learner, proceed))
        if learner.stepped:
            self._marks.append((learner.epoch + 1, learner.steps + 1))  # the step counts once all have passed it on
        if len(self._marks) == FLUSH:
            self._flush()

    def _is_due(self, learner: Learner) -> bool:
        return self.every is not None and (learner.steps + 1) % self.every == 0

    def row(self, learner: Learner, row: Row) -> None:
        self._flush()
        if self._first:
            self.write_epoch(row)
            self.settle()

    def cleanup_fit(self, learner: Learner) -> None:
        if self._begun:
            if learner.engine.world == 1:  # one process that fails must not wait for the others
                self._flush()
            if self._first:
                self.end()
        self._begun = False

    def _flush(self) -> None:
        for (epoch, step), values in zip(self._marks, self._steps.taken(), strict=True):
            if self._first:
                self.write_step(epoch, step, values)
        self._marks.clear()

    def state_dict(self) -> dict[str, Any]:
        if self._begun:
            self._flush()
            if self._first:
                self.settle()
        return super().state_dict()


class _Steps(Recorder):
    """A recorder that gives its rows away."""

    def taken(self) -> list[dict[str, float]]:
        """The rows since the last time."""
        self._flush()
        columns, self._read = self._read, {name: [] for name in self._read}
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


# ---- files of lines -------------------------------------------------------------------------------------------------


class LineLogger(Logger):
    """Base of loggers into one file of lines; a resume continues the file where the checkpoint left it."""

    def __init__(self, path: str | os.PathLike[str], every: int | None, values: Sequence[str], replace: bool) -> None:
        super().__init__(every, values)
        check(type(self).__name__, "replace", replace, FLAG)
        if not isinstance(path, (str, os.PathLike)):
            raise ArgumentError(f"{type(self).__name__}: path must be the path of a file, got {path!r}.")
        self.path, self.replace = Path(path), replace

    def before_fit(self, learner: Learner) -> None:
        super().before_fit(learner)
        self._goes_on = False
        self._length, self._digest = 0, hashlib.sha256()

    def begin(self, learner: Learner) -> None:
        make_folder(self.path.parent)
        if not self._goes_on:
            if self.path.is_file() and self.path.stat().st_size and not self.replace:
                raise RunError(
                    f"{type(self).__name__}: {self.path} is of another run; give another path, or replace=True."
                )
            self._append("", fresh=True)
        if self._length == 0:
            self.head()

    def head(self) -> None:
        """Write what stands above all lines."""

    def add(self, line: str) -> None:
        """Add a line, which ends here."""
        self._append(line + "\n")

    def _append(self, text: str, fresh: bool = False) -> None:
        content = text.encode()
        try:
            with self.path.open("wb" if fresh else "ab") as file:
                file.write(content)
        except OSError as error:
            raise cannot_write(self.path, error) from error
        self._length += len(content)
        self._digest.update(content)

    def settle(self) -> None:
        try:
            with self.path.open("ab") as file:
                os.fsync(file.fileno())
        except OSError as error:
            raise cannot_write(self.path, error) from error

    def state_dict(self) -> dict[str, Any]:
        """The length of the file and a checksum of what is in it, as the first process has written it."""
        inherited = super().state_dict()  # writes what waits
        place = {"path": str(self.path.resolve()), "bytes": self._length, "sha256": self._digest.hexdigest()}
        return {**inherited, **place}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Cut the file back to what it was.

        Raises:
            RunError: it is another file, or was changed.
        """
        super().load_state_dict(state)
        if not self._first or (state["bytes"] == 0 and state["path"] != str(self.path.resolve())):
            return  # nothing of it to go on with
        if not self.path.exists():
            if state["bytes"]:
                warnings.warn(f"{self.path} is missing; its lines before the checkpoint are lost.", stacklevel=2)
            return
        with self.path.open("rb") as file:
            self._digest.update(file.read(state["bytes"]))
        if self._digest.hexdigest() != state["sha256"]:
            raise RunError(f"{self.path} does not begin with the lines that the checkpoint goes on from.")
        cut_back(self.path, state["bytes"])
        self._length, self._goes_on = state["bytes"], True


class JSONLines(LineLogger):
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
        replace: whether a file of another run may be overwritten.

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

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        every: int | None = None,
        values: Sequence[str] = ("lr",),
        replace: bool = False,
    ) -> None:
        super().__init__(path, every, values, replace)

    def write_epoch(self, row: Row) -> None:
        numbers = {"train": row.train, "eval": row.evaluation, "lr": row.lr, "seconds": _seconds(row)}
        self.add(encode({"kind": "epoch", "epoch": row.number, "step": row.steps, **numbers}))

    def write_step(self, epoch: int, step: int, values: Mapping[str, float]) -> None:
        self.add(encode({"kind": "step", "epoch": epoch, "step": step, **values}))


class CSV(LineLogger):
    """Writes a file of comma-separated values under a line of names:

        epoch,step,train_loss,train_accuracy,eval_loss,eval_accuracy,lr,seconds

    With `every` there are lines of steps as well; a column `kind` in front then says "epoch" or "step", a column `loss`
    has the loss of the step, and further columns its values. Cells that a line has nothing for are empty. After a
    resume no line is missing or there twice, whichever checkpoint it goes on from.

    Args:
        path: the file; its folder is made where it is missing.
        every: steps for a line of steps; None for lines of epochs alone.
        values: what such lines hold beside the loss of the step, named as for `Recorder`.
        replace: whether a file of another run may be overwritten.

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

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        every: int | None = None,
        values: Sequence[str] = ("lr",),
        replace: bool = False,
    ) -> None:
        super().__init__(path, every, values, replace)

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

    def head(self) -> None:
        self._line(self.columns)

    def write_epoch(self, row: Row) -> None:
        means = {
            f"{phase}_{name}": value
            for phase, found in (("train", row.train), ("eval", row.evaluation))
            for name, value in found.items()
        }
        own = {"kind": "epoch", "epoch": row.number, "step": row.steps, "lr": row.lr, "seconds": _seconds(row)}
        self._row({**means, **own})

    def write_step(self, epoch: int, step: int, values: Mapping[str, float]) -> None:
        self._row({"kind": "step", "epoch": epoch, "step": step, **values})

    def _row(self, cells: Mapping[str, Any]) -> None:
        self._line([cells.get(name) for name in self.columns])

    def _line(self, cells: Iterable[Any]) -> None:
        text = io.StringIO()
        csv.writer(text, lineterminator="").writerow(["" if cell is None else cell for cell in cells])
        self.add(text.getvalue())


def _seconds(row: Row) -> float | None:
    return None if row.seconds is None else round(row.seconds, 4)


# ---- TensorBoard ----------------------------------------------------------------------------------------------------


class TensorBoard(Logger):
    """Writes events for TensorBoard: `train/loss`, `eval/loss`, ..., `epoch/lr` and `epoch/seconds` after every epoch,
    and with `every` `step/loss`, `step/lr`, ...; all against the steps of the optimizer.

    After a resume TensorBoard shows every number once: what was written after the checkpoint is marked as dropped.

    Args:
        folder: where the files of events go; it is made where it is missing.
        every: steps for numbers of steps; None for epochs alone.
        values: what is written of steps beside their loss, named as for `Recorder`.

    Raises:
        ArgumentError: an argument is of the wrong kind or out of range.
        RunError: tensorboard is not installed; as the fit begins, the folder holds events of another run, or it cannot
            be written.
    """

    def __init__(
        self, folder: str | os.PathLike[str], *, every: int | None = None, values: Sequence[str] = ("lr",)
    ) -> None:
        super().__init__(every, values)
        if not isinstance(folder, (str, os.PathLike)):
            raise ArgumentError(f"TensorBoard: folder must be the path of a folder, got {folder!r}.")
        self.folder = Path(folder)
        self._open = _writer()

    def before_fit(self, learner: Learner) -> None:
        super().before_fit(learner)
        self._goes_on, self._at = False, 0
        self._last: dict[str, float] = {}

    def begin(self, learner: Learner) -> None:
        if not self._goes_on and any(self.folder.glob("events.out.tfevents.*")):
            raise RunError(f"TensorBoard: {self.folder} holds events of another run; give another folder.")
        make_folder(self.folder)
        try:
            # Events from this step on that an earlier session has written are dropped by whoever reads them.
            self.writer = self._open(str(self.folder), purge_step=self._at if self._goes_on else None)
        except OSError as error:
            raise cannot_write(self.folder, error) from error
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
