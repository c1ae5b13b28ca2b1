"""Callback that watches a fit."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from dashpot.errors import ArgumentError
from dashpot.runs.watch_file import WatchFile, read_watch_file
from dashpot.training.callback import Callback
from dashpot.training.distributed.data_sharding import slice_examples
from dashpot.training.optimizer_dict import OptimizerDict
from dashpot.training.side_pass import restored_attributes
from dashpot.utils.schema import COUNT, Record, Rule
from dashpot.watching import Watcher, watch

if TYPE_CHECKING:
    from dashpot.training.learner import Learner
    from dashpot.training.loop_state import Batch

_SCALARS = {"update_ratio": ("norms", "ratio"), "edge_ratio": ("curvature", "ratio"), "noise_scale": ("noise", "scale")}
"""Logged values: the kind of rows and the key."""
_WRITE_SECONDS = 2.0
"""Time between writes to the file."""


class Watch(Callback):
    """Watch a fit: measure norms, noise, curvature and temperature, compared with theory; see `dashpot.watch`.

    The latest update ratio (norm of the update over norm of the weights), edge ratio (rate times curvature over its
    largest stable value) and noise scale are logged as `update_ratio`, `edge_ratio` and `noise_scale`, so that every
    logger shows them. Warnings are printed to stderr. The fit is not affected: weights are bit-identical with and
    without this callback. With several optimizers, bind the callback to one of them by `ForOptimizer`.

    Args:
        budget: Largest share of the time of the fit that measurements may take, in (0, 1].
        path: File of the measurements, which `dashpot watch` reads; None: no file.

    Attributes:
        watcher: The `Watcher` of the last fit; None before the first one.

    Raises:
        ArgumentError: If `budget` is out of range; at the start of a fit, if there are several optimizers.
        RunError: During a fit, if the file cannot be written.

    Example:
        >>> from dashpot import AdamW, tasks
        >>> from dashpot.training import Engine, Learner
        >>> learner = Learner.of(tasks.get("digits").build(0), AdamW, lr=0.01, engine=Engine("cpu"))
        >>> recorder = Watch(budget=1.0)
        >>> learner.fit(1, callbacks=[recorder])
        >>> recorder.watcher.record.rows("norms").last["step"]
        21
    """

    order: ClassVar[int] = 46
    essential: ClassVar[bool] = False
    state_schema: ClassVar[Rule] = Record({"step": COUNT})

    def __init__(self, budget: float = 0.03, path: Path | str | None = None) -> None:
        self.budget, self.path = budget, None if path is None else Path(path)
        self.watcher: Watcher | None = None

    def before_fit(self, learner: Learner) -> None:
        if isinstance(learner.opt, OptimizerDict):
            raise ArgumentError("Watch: bind the callback to one of the optimizers by ForOptimizer.")
        self.watcher = watch(learner.opt, learner.model, self.budget, _total_steps(learner))
        self._file: WatchFile | None = None
        self._losses: list[tuple[Tensor, int]] = []
        self._examples = 0  # of the step so far, on all ranks
        self._logged: dict[str, int] = {}
        self._warned, self._resumed = 0, None
        self._write_time = time.monotonic()
        self._sliceable: bool | None = None  # unknown before the first step

    def after_loss(self, learner: Learner) -> None:
        if learner.training:
            batch = learner.batch
            self._losses.append((batch.loss.detach(), batch.size))
            self._examples += batch.size * learner.engine.world_size if batch.total is None else batch.total

    def step(self, learner: Learner, proceed: Callable[[], None]) -> None:
        """Describe the batch to the watcher, and take the step."""
        assert self.watcher is not None
        batch = learner.batch
        loss, size = _mean(self._losses), self._examples
        if batch.size:
            closure, sliced = (lambda: _loss(learner, batch)), self._sliced(learner, batch)
            self.watcher.observe(loss, closure=closure, sliced=sliced, size=size, examples=batch.size)
        else:  # the share of this rank is empty
            self.watcher.observe(loss, size=size)
        self._losses, self._examples = [], 0
        proceed()

    def _sliced(self, learner: Learner, batch: Batch) -> Callable[[int, int], Tensor] | None:
        """Return a function of the loss over a range of examples; None if the batch cannot be sliced."""
        if self._sliceable is None:
            self._sliceable = _is_sliceable(batch)
        return (lambda first, last: _loss(learner, _part(batch, first, last))) if self._sliceable else None

    def after_step(self, learner: Learner) -> None:
        self._log(learner)
        self._print_warnings(learner)
        if time.monotonic() - self._write_time > _WRITE_SECONDS:
            self._write(learner)

    def after_epoch(self, learner: Learner) -> None:
        self._write(learner)

    def cleanup_fit(self, learner: Learner) -> None:
        if self.watcher is not None:
            self.watcher.close()  # examines the last steps
            self._print_warnings(learner)
            self._write(learner)

    def _log(self, learner: Learner) -> None:
        assert self.watcher is not None
        for name, (kind, key) in _SCALARS.items():
            row = self.watcher.record.rows(kind).last
            if row is not None and row["step"] != self._logged.get(name) and row.get(key) is not None:
                self._logged[name] = row["step"]
                learner.log(name, row[key])

    def _print_warnings(self, learner: Learner) -> None:
        assert self.watcher is not None
        rows = self.watcher.record.rows("warning")
        new = [row for row in rows if row["step"] > self._warned]
        if new:
            self._warned = new[-1]["step"]
        for row in new if learner.engine.is_rank_zero else ():
            advice = f" Advice: {row['advice'].rstrip('.')}." if row.get("advice") else ""
            print(f"Step {row['step']}: {row['text']}{advice}", file=sys.stderr, flush=True)

    # ---- file and resume --------------------------------------------------------------------------------------------

    def _write(self, learner: Learner) -> None:
        if self.path is None or not learner.engine.is_rank_zero or self.watcher is None:
            return
        self._write_time = time.monotonic()
        if self._file is None:
            self._file = self._continued(self.path, self.watcher)
            self._file.start()
        else:
            self._file.write()

    def _continued(self, path: Path, watcher: Watcher) -> WatchFile:
        """Return the file of the record, after adding the rows before the checkpoint of a resumed fit."""
        if self._resumed is not None and path.exists():
            earlier = read_watch_file(path, until=self._resumed)
            for kind, rows in earlier.series.items():
                watcher.record.prepend(kind, rows)
        return WatchFile(path, watcher.record)

    def state_dict(self) -> dict[str, Any]:
        return {"step": 0 if self.watcher is None else self.watcher.step}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        assert self.watcher is not None
        self._resumed = self._warned = state["step"]
        self.watcher.step = state["step"]


def _total_steps(learner: Learner) -> int | None:
    try:
        return learner.total_steps
    except ArgumentError:  # the training data have no length
        return None


def _mean(losses: list[tuple[Tensor, int]]) -> Tensor | None:
    """Return the mean of the losses of micro-batches over their examples; None without examples."""
    losses = [(loss, size) for loss, size in losses if size]  # the loss of no examples is NaN
    total = sum(size for _, size in losses)
    if len(losses) <= 1:
        return losses[0][0] if losses else None
    return torch.stack([loss * (size / total) for loss, size in losses]).sum()


def _loss(learner: Learner, batch: Batch) -> Tensor:
    """Return the loss of a batch at the current weights, with its graph and without communication between ranks."""
    with restored_attributes(learner, unwrapped=True), learner.loop.logged.paused():
        learner.batch = replace(batch, output=None, loss=None)
        learner.loop.fit_loop.compute_loss()
        return learner.batch.loss


def _part(batch: Batch, first: int, last: int) -> Batch:
    """Return a range of the examples of a batch."""
    x, y = (slice_examples(value, slice(first, last), batch.size, "Watch: the batch") for value in (batch.x, batch.y))
    return replace(batch, x=x, y=y, size=last - first, total=None, counted=None)


def _is_sliceable(batch: Batch) -> bool:
    try:
        _part(batch, 0, 1)
    except ArgumentError:
        return False
    return True
