"""Checkpoints in a folder: written while a fit runs, the last few and the best one kept, the newest good one found."""

from __future__ import annotations

import json
import math
import os
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from dashpot.constraints import Interval, Optional, check
from dashpot.errors import ArgumentError, RunError
from dashpot.runs.files import make_folder, write_error, write_text
from dashpot.training.callback import Callback, CancelFit
from dashpot.training.state import checkpoint_file
from dashpot.utils.atomic_files import keep_aside
from dashpot.utils.warn import warn

__all__ = ["Checkpoints", "best", "damaged", "latest", "read_newest"]

COUNT = Optional(Interval(1, math.inf, "left", integer=True))
SECONDS = Optional(Interval(0, math.inf, "neither"))
BEST = "best.json"

_NAME = re.compile(r"step-\d{8,}-(\d{5,})\.ckpt")
_PARTIAL = re.compile(r"\.(step-\d{8,}-\d{5,}\.ckpt|best\.json)\.[0-9a-f]+\.part")


def latest(folder: str | os.PathLike[str]) -> Path | None:
    """The checkpoint in `folder` that was written last, good or not; None where there is none."""
    return next(iter(_newest_first(Path(folder))), None)


def best(folder: str | os.PathLike[str]) -> Path | None:
    """The checkpoint in `folder` that is marked as the best one; None where there is none."""
    mark = _read_best(Path(folder))
    return None if mark is None else Path(folder, mark["file"])


def damaged(folder: str | os.PathLike[str]) -> list[Path]:
    """The checkpoints in `folder` that `read_newest` has put aside."""
    return sorted(Path(folder).glob("step-*.ckpt.damaged*"))


def read_newest(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """The state in the newest good checkpoint of a folder, for `Learner.fit(resume=...)`.

    A damaged one is told with a warning and renamed to end in `.damaged`, and the one before it is used.

    Raises:
        RunError: there is none, or the newest is none of dashpot's, holds code, or is from a newer dashpot.
    """
    folder, corrupt = Path(folder), []
    for path in _newest_first(folder):
        try:
            state = checkpoint_file.read(path)
        except checkpoint_file.DamagedError as error:
            corrupt.append(_quarantine(path, error))
            continue
        except RunError:
            if path.exists():
                raise
            continue  # another process of this run has just put it aside
        return state
    if not corrupt:
        raise RunError(f"{folder} holds no checkpoint.")
    raise RunError(f"There is no good checkpoint in {folder}, only the damaged {', '.join(corrupt)}.")


class Checkpoints(Callback):
    """Writes checkpoints while a fit runs: after epochs, and within them if asked to.

    A checkpoint is a new file `step-STEPS-NUMBER.ckpt`, complete and on the disk before it has its name; only then are
    older ones removed. `read_newest(folder)` gives the state to go on from, `fit(..., resume=state)` goes on. A fit
    that cannot save stops with what went wrong, and the checkpoints that there are stay.

    Args:
        folder: of this run alone; made where it is missing.
        every_epochs: after every so many epochs, evaluation included; None: never. The last one always comes.
        every_steps: also after every so many steps of the optimizer.
        every_seconds: also once so many seconds have gone by since the last one.
        keep: the last so many stay; None: all.
        best: a metric of the evaluation (of training where there is none) and "max" or "min", such as
            `("accuracy", "max")`: the checkpoint after the epoch that was best so far stays too, and `best.json` says
            which that is. The first of equals; a nan is never best.
        config: more to write into every file, such as the settings of the run; plain data.

    Raises:
        ArgumentError: an argument is out of range, or there is no such metric.
        RunError: the folder cannot be written; it holds another fit's checkpoints; or the data cannot be resumed.

    >>> import tempfile
    >>> from dashpot.training import Learner
    >>> import dashpot as dp
    >>> from dashpot import tasks
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     learner = Learner.of(tasks.get("digits").build(seed=0), dp.AdamW, lr=0.01)
    ...     learner.fit(1, callbacks=[Checkpoints(folder)])
    ...     latest(folder).name, read_newest(folder)["progress"]["position"]
    ('step-00000030-00001.ckpt', [1, 0])
    """

    order: ClassVar[int] = 90
    essential: ClassVar[bool] = False

    def __init__(
        self,
        folder: str | os.PathLike[str],
        every_epochs: int | None = 1,
        every_steps: int | None = None,
        every_seconds: float | None = None,
        *,
        keep: int | None = 3,
        best: Sequence[str] | None = None,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        for name, value, allowed in (
            ("every_epochs", every_epochs, COUNT),
            ("every_steps", every_steps, COUNT),
            ("every_seconds", every_seconds, SECONDS),
            ("keep", keep, COUNT),
        ):
            check("Checkpoints", name, value, allowed)
        if best is not None and not _is_metric_mode(best):
            raise ArgumentError(
                f'Checkpoints: best must be a pair of a metric and "max" or "min", or None, got {best!r}.'
            )
        self.folder, self.keep, self.config = Path(folder), keep, dict(config or {})
        self.every_epochs, self.every_steps, self.every_seconds = every_epochs, every_steps, every_seconds
        self.metric, self.direction = best or (None, "max")
        self._best: dict[str, Any] | None = None
        self._saved_position: tuple[int, int] | None = (
            None  # the position of the last checkpoint, from the first epoch on
        )
        self._saved_time = 0.0
        self._epoch_ended = False  # whether this epoch's end was told, here and thereby to all of a smaller order

    def before_fit(self, learner: Any) -> None:
        if self.metric is not None and self.metric not in ("loss", *learner.metrics):
            known = ", ".join(["loss", *learner.metrics])
            raise ArgumentError(f"Checkpoints: best must name one of {known}, got {self.metric!r}.")
        learner.train.check_resumable()
        if learner.loop.phases["eval"]:
            learner.evaluation.check_resumable()
        self._best, self._saved_position, self._epoch_ended = None, None, False
        self._saved_time = time.monotonic()
        if learner.engine.is_rank_zero:
            make_folder(self.folder)
            self._remove_partial_files()

    def before_epoch(self, learner: Any) -> None:
        self._epoch_ended = False
        if not learner.training:
            return
        if learner.loop.position == (0, 0) and self._saved_position is None and latest(self.folder):
            raise RunError(
                f"{self.folder} holds checkpoints of an earlier fit; go on from them with fit(..., resume=read_newest("
                "folder)), or give this fit a folder of its own."
            )
        self._saved_position = self._saved_position or learner.loop.position

    def after_batch(self, learner: Any) -> None:
        if (
            learner.training
            and learner.batch.is_last_microbatch
            and (self._is_step_due(learner) or self._is_time_due(learner))
        ):
            self.save(learner)

    def after_epoch(self, learner: Any) -> None:
        self._epoch_ended = True

    def cleanup_epoch(self, learner: Any) -> None:
        # Not after_epoch: averaged weights are in the model until they are taken out in the cleanup.
        epoch, batch = learner.loop.position
        if batch or epoch != learner.epoch + 1 or self._saved_position is None or self._has_failed(learner):
            return  # an evaluation is still to come, or the epoch has failed
        better = self._is_better(learner)
        if better or (self.every_epochs is not None and epoch % self.every_epochs == 0) or epoch == learner.epochs:
            self.save(learner, better)

    def after_fit(self, learner: Any) -> None:
        if self._saved_position is not None:
            self.save(learner)

    def save(self, learner: Any, better: bool = False) -> None:
        """Write a checkpoint now, unless there is one of this moment; every process of the fit has to ask.

        Args:
            learner: between two steps, as in `after_batch` where `learner.batch.is_last_microbatch`.
            better: mark it as the best one.

        Raises:
            RunError: it cannot be written.
        """
        if learner.loop.position == self._saved_position:
            return
        path = self.folder / f"step-{learner.steps:08d}-{self._next_number():05d}.ckpt"
        if better:
            self._best = {"file": path.name, "metric": self.metric, "value": self._value(learner)}
            self._best["epoch"] = learner.loop.position[0]
        state, fault = learner.state_dict(), None
        if learner.engine.is_rank_zero:
            try:
                checkpoint_file.write(path, state, {"config": self.config})
                if better:
                    self._write_best()
                self._remove_old(path)
            except RunError as error:
                fault = str(error)
        fault = learner.engine.all_gather(fault)[0]
        if fault is not None:
            raise RunError(fault)
        self._saved_position, self._saved_time = learner.loop.position, time.monotonic()

    def state_dict(self) -> dict[str, Any]:
        return {} if self._best is None else {"best": self._best}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        found = state.get("best")
        if found is not None and found["metric"] == self.metric:
            self._best = found
            if _read_best(self.folder) is None and (self.folder / found["file"]).exists():
                self._write_best()  # the run was killed between the checkpoint and its mark

    # ---- when -------------------------------------------------------------------------------------------------------

    def _has_failed(self, learner: Any) -> bool:
        """Whether an error has kept the epoch's end from callbacks, whose states would lack it."""
        unwinding = learner.loop.unwinding
        return not self._epoch_ended and unwinding is not None and not issubclass(unwinding, CancelFit)

    def _is_step_due(self, learner: Any) -> bool:
        return self.every_steps is not None and learner.batch.stepped and learner.steps % self.every_steps == 0

    def _is_time_due(self, learner: Any) -> bool:
        if self.every_seconds is None:
            return False
        return learner.engine.all_gather(time.monotonic() - self._saved_time >= self.every_seconds)[
            0
        ]  # the first one's clock

    def _value(self, learner: Any) -> float:
        epoch = learner.history[learner.epoch]
        return epoch.get("eval", epoch.get("train", {})).get(self.metric, math.nan)

    def _is_better(self, learner: Any) -> bool:
        if self.metric is None:
            return False
        value, sign = self._value(learner), 1 if self.direction == "max" else -1
        return not math.isnan(value) and (self._best is None or sign * value > sign * self._best["value"])

    # ---- the folder -------------------------------------------------------------------------------------------------

    def _next_number(self) -> int:
        """A number above that of every file there was, put aside or not: a name is never used twice."""
        names = (_NAME.match(path.name) for path in self.folder.glob("step-*"))
        return 1 + max((int(name[1]) for name in names if name), default=0)

    def _write_best(self) -> None:
        write_text(self.folder / BEST, json.dumps(self._best) + "\n")

    def _remove_old(self, newest: Path) -> None:
        """Remove what is not to be kept; `newest` is safe by now."""
        if self.keep is None:
            return
        marks = [mark["file"] for mark in (_read_best(self.folder), self._best) if mark is not None]
        old = [path for path in _newest_first(self.folder) if path != newest][self.keep - 1 :]
        for path in old:
            if path.name not in marks:
                _remove(path)

    def _remove_partial_files(self) -> None:
        """Remove the halves of files that killed runs have left."""
        for path in self.folder.glob(".*.part"):
            if _PARTIAL.fullmatch(path.name):
                _remove(path)


def _newest_first(folder: Path) -> list[Path]:
    """The checkpoints in a folder by their running number, which tells the order in which they were written."""
    found = [(int(name[1]), path) for path in folder.glob("step-*.ckpt") if (name := _NAME.fullmatch(path.name))]
    return [path for _, path in sorted(found, reverse=True)]


def _read_best(folder: Path) -> dict[str, Any] | None:
    """The mark of the best checkpoint, if that is there."""
    try:
        mark = json.loads((folder / BEST).read_text(encoding="utf-8"))
        return mark if _NAME.fullmatch(mark["file"]) and (folder / mark["file"]).exists() else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _quarantine(path: Path, error: RunError) -> str:
    """Rename a damaged checkpoint and tell it; its new name."""
    try:
        aside = keep_aside(path)
    except FileNotFoundError:  # another process of this run was first
        return path.name
    except OSError as reason:
        raise write_error(path, reason) from error
    warn(f"{error} It is kept as {aside.name}, and the one before it is used.")
    return aside.name


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise write_error(path, error) from error


def _is_metric_mode(best: Any) -> bool:
    pair = isinstance(best, (tuple, list)) and len(best) == 2 and all(isinstance(part, str) for part in best)
    return pair and best[1] in ("max", "min")
