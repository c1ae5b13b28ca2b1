"""Checkpoints of a fit in a folder: writing, retention, and selection for a resume."""

from __future__ import annotations

import json
import math
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

from dashpot.constraints import Interval, Optional, check, shown
from dashpot.errors import ArgumentError, RunError
from dashpot.runs.files import make_folder, remove_partial_files, write_error, write_text
from dashpot.training.callback import Callback, CancelFit
from dashpot.training.optimizer_dict import named_optimizers
from dashpot.training.plain_optimizer import check_savable
from dashpot.training.state import checkpoint_file
from dashpot.utils.atomic_files import keep_aside
from dashpot.utils.schema import POSITIVE_COUNT, REAL, TEXT, Record, Rule, SchemaError, Text, require
from dashpot.utils.strict_json import decode
from dashpot.utils.warn import warn

COUNT = Optional(Interval(1, math.inf, "left", integer=True))
SECONDS = Optional(Interval(0, math.inf, "neither"))
BEST = "best.json"

_NAME = re.compile(r"step-\d{8,}-(\d{5,})\.ckpt")
BEST_MARK = Record(
    {
        "file": Text(_NAME.pattern, "the name of a checkpoint"),
        "metric": TEXT,
        "value": REAL,
        "epoch": POSITIVE_COUNT,
    }
)
"""Rule of the mark of the best checkpoint, in `best.json` and in the state of `Checkpoints`."""
_FILES = rf"{_NAME.pattern}|{re.escape(BEST)}"


def latest(folder: str | os.PathLike[str]) -> Path | None:
    """Return the path of the newest checkpoint file in `folder`, even if the file is damaged; None if there is none."""
    return next(iter(_newest_first(Path(folder))), None)


def best(folder: str | os.PathLike[str]) -> Path | None:
    """Return the path of the checkpoint in `folder` that is marked as the best, or None if there is none.

    Raises:
        RunError: If `best.json` is damaged.
    """
    found = _read_best(Path(folder))
    return None if found is None else Path(folder, found["file"])


def damaged(folder: str | os.PathLike[str]) -> list[Path]:
    """Return the paths of the damaged checkpoints in `folder`, which `read_newest` has renamed."""
    return sorted(Path(folder).glob("step-*.ckpt.damaged*"))


def read_newest(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the state of the newest intact checkpoint in `folder`, for `Learner.fit(resume=...)`.

    A damaged checkpoint, or a different file in its place, is renamed to end in `.damaged`, with a warning, and the
    next older checkpoint is used.

    Raises:
        RunError: If no checkpoint is intact, or the newest file contains code or was written by a newer version of
            dashpot.
    """
    folder, renamed = Path(folder), []
    for path in _newest_first(folder):
        try:
            state = checkpoint_file.read(path)
        except (checkpoint_file.DamagedError, checkpoint_file.ForeignError) as error:
            renamed.append(_rename_damaged(path, error))
            continue
        except RunError:
            if path.exists():
                raise
            continue  # another rank has renamed the file
        return state
    if not renamed:
        raise RunError(f"{folder} contains no checkpoint.")
    raise RunError(f"{folder} contains only damaged checkpoints: {', '.join(renamed)}.")


class Checkpoints(Callback):
    """Periodic checkpoints, after epochs and optionally within them.

    Each checkpoint is a new file `step-STEPS-NUMBER.ckpt`. The file gets this name once it is complete and synced to
    disk; only then are older checkpoints removed. To resume, pass `read_newest(folder)` to `fit(..., resume=state)`. If
    a checkpoint cannot be written, the fit fails and existing checkpoints are kept.

    Args:
        folder: Folder of the checkpoints of one run, created if missing.
        every_epochs: Number of epochs between checkpoints, an integer >= 1, or None. A checkpoint is always written
            after the last epoch.
        every_steps: Number of optimizer steps between additional checkpoints, an integer >= 1, or None.
        every_seconds: Seconds between additional checkpoints, > 0, or None.
        keep: Number of latest checkpoints to keep, an integer >= 1, or None to keep all.
        best: Pair of a metric and "max" or "min", such as `("accuracy", "max")`. The metric is measured in the
            evaluation phase, or in the training phase if there is no evaluation. The checkpoint of the best epoch is
            also kept, and `best.json` contains the name of this checkpoint. Of equal values, the earliest is the best;
            NaN is never the best.
        config: Additional plain data stored in every checkpoint, such as the settings of the run.

    Raises:
        ArgumentError: If an argument is out of range or the metric does not exist.
        RunError: If the folder cannot be written or contains checkpoints of a different fit, or if the data loader
            cannot be resumed, or the state of the optimizer cannot be saved.

    Example:
        >>> import tempfile
        >>> from dashpot.training import Learner
        >>> import dashpot as dp
        >>> from dashpot import tasks
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     learner = Learner.of(tasks.get("digits").build(seed=0), dp.AdamW, lr=0.01)
        ...     learner.fit(1, callbacks=[Checkpoints(folder)])
        ...     latest(folder).name, read_newest(folder)["progress"]["position"]
        ('step-00000024-00001.ckpt', [1, 0])
    """

    order: ClassVar[int] = 90
    essential: ClassVar[bool] = False
    state_schema: ClassVar[Rule] = Record({}, optional={"best": BEST_MARK})

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
        check("Checkpoints", "every_epochs", every_epochs, COUNT)
        check("Checkpoints", "every_steps", every_steps, COUNT)
        check("Checkpoints", "every_seconds", every_seconds, SECONDS)
        check("Checkpoints", "keep", keep, COUNT)
        if best is not None and not _is_metric_mode(best):
            raise ArgumentError(
                f'Checkpoints: best must be None or a pair of a metric and "max" or "min", got {shown(best)}.'
            )
        self.folder, self.keep, self.config = Path(folder), keep, dict(config or {})
        self.every_epochs, self.every_steps, self.every_seconds = every_epochs, every_steps, every_seconds
        self.metric, self.direction = best or (None, "max")
        self._best: dict[str, Any] | None = None
        self._saved_position: tuple[int, int] | None = None  # at the last checkpoint, or at the start of the fit
        self._saved_time = 0.0
        self._epoch_ended = False  # whether all callbacks up to this one have completed `after_epoch`

    def before_fit(self, learner: Any) -> None:
        if self.metric is not None and self.metric not in ("loss", *learner.metrics):
            known = ", ".join(["loss", *learner.metrics])
            raise ArgumentError(f"Checkpoints: best must name one of {known}, got {shown(self.metric)}.")
        for opt in named_optimizers(learner.opt).values():
            check_savable(opt, "Checkpoints")
        learner.train.check_resumable()
        if learner.loop.phases["eval"]:
            learner.evaluation.check_resumable()
        self._best, self._saved_position, self._epoch_ended = None, None, False
        self._saved_time = time.monotonic()
        if learner.engine.is_rank_zero:
            make_folder(self.folder)
            remove_partial_files(self.folder, _FILES)

    def before_epoch(self, learner: Any) -> None:
        self._epoch_ended = False
        if not learner.training:
            return
        if learner.loop.position == (0, 0) and self._saved_position is None and latest(self.folder):
            raise RunError(
                f"{self.folder} contains checkpoints of an earlier fit; resume it with fit(..., resume=read_newest("
                "folder)), or use a different folder."
            )
        self._saved_position = self._saved_position or learner.loop.position

    def after_batch(self, learner: Any) -> None:
        between_steps = learner.training and learner.batch.is_last_microbatch
        if between_steps and (learner.loop.cut_at is not None or self._is_due(learner)):
            self.save(learner)

    def after_epoch(self, learner: Any) -> None:
        self._epoch_ended = True

    def cleanup_epoch(self, learner: Any) -> None:
        # The checkpoint is not written in after_epoch, because averaged weights remain in the model until the cleanup.
        epoch, batch = learner.loop.position
        if batch or epoch != learner.epoch + 1 or self._saved_position is None or self._has_failed(learner):
            return  # before the evaluation, or after a failure
        better = self._is_better(learner)
        if learner.loop.cut_at is not None:  # a higher time limit continues from the checkpoint before the evaluation
            if better:
                self._mark_best(learner)
        elif better or (self.every_epochs is not None and epoch % self.every_epochs == 0) or epoch == learner.epochs:
            self.save(learner, better)

    def after_fit(self, learner: Any) -> None:
        if self._saved_position is not None and learner.loop.cut_at is None:
            self.save(learner)

    def save(self, learner: Any, better: bool = False) -> None:
        """Write a checkpoint, unless one exists for the current position. This is a collective: all ranks must call it.

        Args:
            learner: Learner between two steps, for example in `after_batch` if `learner.batch.is_last_microbatch`.
            better: Whether to mark the checkpoint as the best checkpoint so far.

        Raises:
            RunError: If the checkpoint cannot be written.
        """
        if learner.loop.position == self._saved_position:
            return
        path = self.folder / f"step-{learner.steps:08d}-{self._next_number():05d}.ckpt"
        if better:
            self._best = self._best_of(learner, path)
        state = learner.state_dict()

        def write() -> None:
            checkpoint_file.write(path, state, {"config": self.config})
            if better:
                self._write_best()
            self._remove_old(path)

        _on_rank_zero(learner, write)
        self._saved_position, self._saved_time = learner.loop.position, time.monotonic()

    def _mark_best(self, learner: Any) -> None:
        """Mark the checkpoint that was written before the evaluation as the best, because it has the same weights."""
        path = learner.engine.broadcast(latest(self.folder))
        if path is not None:
            self._best = self._best_of(learner, path)
            _on_rank_zero(learner, self._write_best)

    def _best_of(self, learner: Any, path: Path) -> dict[str, Any]:
        epoch = learner.loop.position[0]
        return {"file": path.name, "metric": self.metric, "value": self._value(learner), "epoch": epoch}

    def state_dict(self) -> dict[str, Any]:
        return {} if self._best is None else {"best": self._best}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        found = state.get("best")
        if found is not None and found["metric"] == self.metric:
            self._best = found
            if _intact_best(self.folder) is None and (self.folder / found["file"]).exists():
                self._write_best()  # the run was killed between writing the checkpoint and best.json

    # ---- conditions -------------------------------------------------------------------------------------------------

    def _has_failed(self, learner: Any) -> bool:
        """Return whether an error has prevented callbacks from completing the epoch."""
        unwinding = learner.loop.unwinding
        return not self._epoch_ended and unwinding is not None and not issubclass(unwinding, CancelFit)

    def _is_due(self, learner: Any) -> bool:
        """Return whether a checkpoint is due, by `every_steps` or by `every_seconds` on the clock of rank 0."""
        if self.every_steps is not None and learner.batch.stepped and learner.steps % self.every_steps == 0:
            return True
        if self.every_seconds is None:
            return False
        return learner.engine.broadcast(time.monotonic() - self._saved_time >= self.every_seconds)

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
        """Return a number above the numbers of all checkpoint files, even damaged ones, so that no name is reused."""
        names = (_NAME.match(path.name) for path in self.folder.glob("step-*"))
        return 1 + max((int(name[1]) for name in names if name), default=0)

    def _write_best(self) -> None:
        write_text(self.folder / BEST, json.dumps(self._best) + "\n")

    def _remove_old(self, newest: Path) -> None:
        """Remove checkpoints older than the latest `keep` checkpoints, except `newest` and the best checkpoint."""
        if self.keep is None:
            return
        best = [found["file"] for found in (_intact_best(self.folder), self._best) if found is not None]
        old = [path for path in _newest_first(self.folder) if path != newest][self.keep - 1 :]
        for path in old:
            if path.name not in best:
                _remove(path)


def _newest_first(folder: Path) -> list[Path]:
    """Return the paths of the checkpoints in a folder, newest first."""
    found = [(int(name[1]), path) for path in folder.glob("step-*.ckpt") if (name := _NAME.fullmatch(path.name))]
    return [path for _, path in sorted(found, reverse=True)]


def _read_best(folder: Path) -> dict[str, Any] | None:
    """Return the contents of `best.json` if the checkpoint that it names exists, else None.

    Raises:
        RunError: If the file is damaged.
    """
    try:
        found = decode((folder / BEST).read_bytes())
        require(BEST_MARK, found)
    except OSError:
        return None
    except ValueError as error:
        reason = f": {error}" if isinstance(error, SchemaError) else ""
        raise RunError(
            f"{folder / BEST} is damaged{reason}; delete it to continue without a best checkpoint."
        ) from error
    return found if (folder / found["file"]).exists() else None


def _intact_best(folder: Path) -> dict[str, Any] | None:
    """Return the contents of `best.json` as `_read_best`, or None if the file is damaged and will be replaced."""
    with suppress(RunError):
        return _read_best(folder)
    return None


def _rename_damaged(path: Path, error: RunError) -> str:
    """Rename a damaged checkpoint with a warning, and return its new name."""
    try:
        renamed = keep_aside(path)
    except FileNotFoundError:  # another rank has renamed the file
        return path.name
    except OSError as reason:
        raise write_error(path, reason) from error
    warn(f"{error} It is renamed to {renamed.name}, and the previous checkpoint is used.")
    return renamed.name


def _on_rank_zero(learner: Any, action: Callable[[], None]) -> None:
    """Run `action` on rank 0; if it raises a `RunError`, raise it on every rank."""
    fault = None
    if learner.engine.is_rank_zero:
        try:
            action()
        except RunError as error:
            fault = str(error)
    fault = learner.engine.broadcast(fault)
    if fault is not None:
        raise RunError(fault)


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise write_error(path, error) from error


def _is_metric_mode(best: Any) -> bool:
    pair = isinstance(best, (tuple, list)) and len(best) == 2 and all(isinstance(part, str) for part in best)
    return pair and best[1] in ("max", "min")
