"""Writer of the record of a run, with the values of every step and every epoch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from dashpot.errors import RunError
from dashpot.runs.environment import versions
from dashpot.runs.files import append_line, truncate
from dashpot.runs.records import Divergence, Epoch, epoch_lines
from dashpot.tasks.running_means import SYNC_INTERVAL
from dashpot.training.callback import Callback, CancelFit
from dashpot.training.loop import current_lr
from dashpot.training.stopwatch import Stopwatch
from dashpot.utils.scalars import read_all
from dashpot.utils.schema import COUNT, REAL, SECONDS, ListOf, Record, Row, Rule
from dashpot.utils.strict_json import encode

if TYPE_CHECKING:
    from dashpot.training.learner import Learner


class RunLog(Callback):
    """Write the record of a run, and end the fit if it diverges.

    The lines have the format of `dashpot.runs.records`: the loss and learning rate of every step (with gradient
    accumulation, the mean loss over the micro-batches of the step), the means and seconds of every epoch, and the end.
    The file must already contain the header. A run has diverged at the first non-finite loss or, if steps with
    non-finite gradients are skipped, after `SYNC_INTERVAL` consecutive non-finite losses. Losses are buffered on the
    device, so divergence is detected up to `SYNC_INTERVAL` steps late.

    Args:
        path: Path of the record.
        skipping: Whether steps with non-finite gradients are skipped, by `NonFinite` or by a loss scaler.
        resumed: Additional fields of the line of kind `resumed`, which a resumed fit writes.
    """

    order: ClassVar[int] = 65
    essential: ClassVar[bool] = False
    state_name: ClassVar[str | None] = "Record"  # the key in existing checkpoints
    state_schema: ClassVar[Rule] = Record(
        {
            "bytes": COUNT,
            "first": COUNT,
            "bad": COUNT,
            "losses": ListOf(REAL),
            "rates": ListOf(REAL),
            "spent": Row((SECONDS, SECONDS)),
        }
    )

    def __init__(self, path: Path, *, skipping: bool = False, resumed: Mapping[str, Any] | None = None) -> None:
        self.path, self.skipping, self.resumed = path, skipping, dict(resumed or {})
        self.diverged: Divergence | None = None

    def before_fit(self, learner: Learner) -> None:
        self._learner, self.diverged, self._end_written = learner, None, False
        self._losses: list[float] = []
        self._lrs: list[float] = []
        self._pending: list[tuple[Tensor, Any]] = []
        self._ends_step: list[bool] = []  # whether the optimizer steps after each pending batch
        self._first_step, self._nonfinite_steps = 0, 0
        self._stopwatch = Stopwatch()
        self._resume_length: int | None = None  # length of the record at the checkpoint, until it is truncated

    def before_epoch(self, learner: Learner) -> None:
        self._continue_record()
        if learner.training:
            self._stopwatch.start()

    def after_loss(self, learner: Learner) -> None:
        if learner.training:
            self._pending.append((learner.batch.loss.detach(), learner.batch.count))
            self._ends_step.append(learner.batch.is_last_microbatch)
            if learner.batch.is_last_microbatch:  # recorded even if the step is skipped
                self._lrs.append(current_lr(learner.opt))

    def after_batch(self, learner: Learner) -> None:
        if learner.training and learner.batch.is_last_microbatch:
            if len(self._pending) >= SYNC_INTERVAL:
                self._flush()
            self._stop_if_diverged(learner)

    def after_epoch(self, learner: Learner) -> None:
        if learner.training:
            self._flush()
            self._stop_if_diverged(learner)
            self._stopwatch.stop()
        if not learner.training or not learner.loop.phases["eval"]:
            self._write_epoch(learner)

    def after_fit(self, learner: Learner) -> None:
        reason = {} if learner.stop_reason is None else {"reason": learner.stop_reason}
        self._append(encode({"kind": "end", "status": "done", "steps": self._first_step, **reason}))
        self._end_written = True

    def cleanup_fit(self, learner: Learner) -> None:
        """Record the run as diverged if another callback has cancelled the fit with a stop reason."""
        if learner.stop_reason is None or self._end_written:
            return
        self._flush()
        if self._losses:
            self.diverged = self._divergence()
            self._write_divergence(learner, learner.stop_reason)

    # ---- steps ------------------------------------------------------------------------------------------------------

    def _flush(self) -> None:
        """Read the buffered losses and average the losses of each step."""
        pairs, ends = self._pending_means(), self._ends_step
        self._pending.clear()
        self._ends_step = []
        first = 0
        for number, ends_step in enumerate(ends, 1):
            if not ends_step and number < len(ends):
                continue
            self._losses.append(_window_mean(pairs[first:number]))
            first = number
            self._nonfinite_steps = 0 if math.isfinite(self._losses[-1]) else self._nonfinite_steps + 1
            if self.diverged is None and self._nonfinite_steps == (SYNC_INTERVAL if self.skipping else 1):
                self.diverged = self._divergence()

    def _pending_means(self) -> list[tuple[float, float]]:
        """Return, for each buffered batch, the mean loss and its count (of examples or others) over all ranks."""
        if not self._pending:
            return []
        values = torch.stack([loss.double() for loss, _ in self._pending]).tolist()
        sizes = [float(size) for size in read_all([size for _, size in self._pending])]
        if self._learner.engine.world_size > 1:  # each rank has only a part of each batch
            sums = [value * size if size else 0.0 for value, size in zip(values, sizes, strict=True)]
            totals = self._learner.engine.all_reduce_sum([*sums, *sizes])
            sizes = totals[len(sums) :]
            values = [s / n if n else 0.0 for s, n in zip(totals, sizes, strict=False)]
        return list(zip(values, sizes, strict=True))

    def _divergence(self) -> Divergence:
        """Return a `Divergence` at the last step whose loss has been read from the device."""
        loss = self._losses[-1]
        label = f"{loss:.4g}" if math.isfinite(loss) else "nan" if math.isnan(loss) else "inf"
        return Divergence(self._first_step + len(self._losses) - 1, label)

    def _stop_if_diverged(self, learner: Learner) -> None:
        if self.diverged is not None:
            self._write_divergence(learner)
            raise CancelFit

    def _write_divergence(self, learner: Learner, reason: str | None = None) -> None:
        """Write the steps up to the divergence, and the `end` line of the run."""
        assert self.diverged is not None
        kept = self.diverged.step - self._first_step + 1
        steps, _ = epoch_lines(self._epoch(learner, self._losses[:kept], self._lrs[:kept])).splitlines()
        end = {"kind": "end", "status": "diverged", "step": self.diverged.step, "loss": self.diverged.label}
        self._append(steps + "\n" + encode({**end, **({} if reason is None else {"reason": reason})}))
        self._end_written = True

    # ---- epochs -----------------------------------------------------------------------------------------------------

    def _write_epoch(self, learner: Learner) -> None:
        self._append(epoch_lines(self._epoch(learner, self._losses, self._lrs)))
        self._first_step += len(self._losses)
        self._losses, self._lrs, self._stopwatch = [], [], Stopwatch()

    def _epoch(self, learner: Learner, losses: list[float], lrs: list[float]) -> Epoch:
        means = learner.history[learner.epoch]
        cpu, wall = self._stopwatch.seconds
        return Epoch(
            number=learner.epoch + 1,
            steps=self._first_step + len(losses),
            train=means.get("train", {}),
            evaluation=means.get("eval", {}),
            loss=losses,
            lr=lrs,
            cpu_s=cpu,
            wall_s=wall,
            diverged=self.diverged,
        )

    def _append(self, line: str) -> None:
        self._continue_record()
        if self._learner.engine.is_rank_zero:
            append_line(self.path, line)

    # ---- resuming ---------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return the steps that have not been written yet, reduced over all ranks, and the length of the file."""
        self._continue_record()
        self._flush()
        return {
            "bytes": self.path.stat().st_size if self.path.exists() else 0,
            "first": self._first_step,
            "bad": self._nonfinite_steps,
            "losses": list(self._losses),
            "rates": list(self._lrs),
            "spent": list(self._stopwatch.seconds),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the unwritten steps; the record is truncated once all callbacks have accepted their states."""
        self._first_step, self._nonfinite_steps = state["first"], state["bad"]
        self._losses, self._lrs = list(state["losses"]), list(state["rates"])
        self._stopwatch = Stopwatch(state["spent"])
        if self._learner.engine.is_rank_zero:
            if not self.path.exists() or self.path.stat().st_size < state["bytes"]:
                raise RunError(
                    f"The record {self.path} is damaged: it is shorter than when the checkpoint was written."
                )
            self._resume_length = state["bytes"]

    def _continue_record(self) -> None:
        """In a resumed fit, truncate the record to its length at the checkpoint and append a `resumed` line."""
        if self._resume_length is None:
            return
        truncate(self.path, self._resume_length)
        self._resume_length = None
        steps = self._first_step + len(self._losses)
        append_line(self.path, encode({"kind": "resumed", "steps": steps, "versions": versions(), **self.resumed}))


def _window_mean(pairs: list[tuple[float, float]]) -> float:
    """Return the mean loss of a step, from pairs of mean loss and count."""
    if len(pairs) == 1:
        return pairs[0][0]
    total = math.fsum(size for _, size in pairs)
    return math.fsum(value * size for value, size in pairs if size) / total if total else 0.0
