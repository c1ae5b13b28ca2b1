"""Gradients and losses that are not finite: found before they reach the weights, and told where they come from."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from dashpot import constraints
from dashpot.constraints import Interval, OneOf
from dashpot.errors import ArgumentError, NonFiniteError
from dashpot.runs.files import make_folder, write_bytes
from dashpot.training.callback import Callback, CancelFit
from dashpot.training.callbacks.grad_norms import grad_norm
from dashpot.training.callbacks.nonfinite_report import Diagnosis, diagnose
from dashpot.training.state import fit_state
from dashpot.utils.warn import warn

if TYPE_CHECKING:
    from dashpot.training.learner import Learner

__all__ = ["NonFinite"]

ACTIONS = OneOf(("stop", "skip", "raise"))
CHECKS = OneOf(("gradients", "loss"))
KEEP = Interval(1, math.inf, "left", integer=True)
MIN_LOSS_SCALE = 2.0**-10
"""A loss scale below it makes no finite gradient overflow in float16 unless it is beyond 6e7."""


class NonFinite(Callback):
    """Looks before every step whether the gradients are finite; if not, says where that began, and does as told.

    The report names every parameter whose gradient holds a nan ("nan"), or no nan but an infinity ("inf"), and its
    layer; weights that are not finite themselves; and the first module that makes something not finite of a batch of
    this step, found by sending the batches through the model once more. Neither buffers nor random states change by it.

    One norm is computed and read for every step, which makes a GPU wait for it. Under the loss scale of fp16 an
    infinity now and then is how the scale is found: the scaler skips these steps by itself, and this callback speaks up
    when the scale has come down so far (2^-10) that the gradients themselves must be the reason.

    Args:
        then: "stop" ends the fit, with a warning and the report as `learner.stop_reason`; "skip" leaves this step out
            (no gradient, no schedule moves) and warns the first time; "raise" raises `NonFiniteError`.
        folder: where to write, each time but at most `keep` times, a file with the report, the fit's state before the
            step, the gradients and the batches. `torch.load(file, weights_only=True)` reads it. None: nowhere.
        check: "gradients", or "loss": only the losses of the step's batches are looked at.
        keep: how many such files to write in one fit.

    Attributes:
        reports: the report of every step that was not finite, in this fit.

    Raises:
        ArgumentError: an argument is out of range.
        RunError: the folder cannot be written.

    >>> import torch
    >>> from dashpot import SGD, tasks
    >>> from dashpot.training import Engine, Learner
    >>> learner = Learner.of(tasks.get("digits").build(0), SGD, lr=0.1, engine=Engine("cpu"))
    >>> watch = NonFinite(then="raise")
    >>> with torch.no_grad():
    ...     _ = next(learner.model.parameters()).view(-1)[0].fill_(torch.nan)
    >>> learner.fit(1, callbacks=[watch])
    Traceback (most recent call last):
    dashpot.errors.NonFiniteError: Step 1 (epoch 1, batch 1) has gradients that are not finite: ...
    """

    order: ClassVar[int] = 5

    def __init__(
        self,
        then: str = "stop",
        folder: str | os.PathLike[str] | None = None,
        check: str = "gradients",
        keep: int = 3,
    ) -> None:
        for name, value, allowed in (("then", then, ACTIONS), ("check", check, CHECKS), ("keep", keep, KEEP)):
            constraints.check("NonFinite", name, value, allowed)
        if folder is not None and not isinstance(folder, (str, os.PathLike)):
            raise ArgumentError(f"NonFinite: folder must be None or a path, got {folder!r}.")
        self.then, self.check, self.keep = then, check, keep
        self.folder = None if folder is None else Path(folder)
        self.reports: list[str] = []

    def settings(self) -> dict[str, Any]:
        return {"then": self.then, "check": self.check}

    def before_fit(self, learner: Learner) -> None:
        self.reports, self._batches = [], []
        self._losses: list[Tensor] = []
        if self.folder is not None and learner.engine.is_rank_zero:
            make_folder(self.folder)

    def after_backward(self, learner: Learner) -> None:
        if learner.loop.pending_batches == 1:
            self._batches, self._losses = [], []
        self._batches.append((learner.batch.index, learner.batch.x, learner.batch.y))
        self._losses.append(learner.batch.loss.detach())

    def step(self, learner: Learner, proceed: Callable[[], None]) -> None:
        scaler = learner.engine.scaler
        if scaler is not None:
            proceed()
            if not learner.batch.stepped and scaler.get_scale() < MIN_LOSS_SCALE:
                self._handle(learner)
        elif self._is_finite(learner):
            proceed()
        else:
            self._handle(learner, proceed)

    def cleanup_fit(self, learner: Learner) -> None:
        self._batches, self._losses = [], []

    def state_dict(self) -> dict[str, Any]:
        return {"reports": list(self.reports)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.reports = list(state["reports"])

    def _is_finite(self, learner: Learner) -> bool:
        if self.check == "gradients":
            return math.isfinite(grad_norm(learner).item())
        bad = not all(map(math.isfinite, torch.stack([loss.float() for loss in self._losses]).tolist()))
        return not learner.engine.any(bad)

    def _handle(self, learner: Learner, proceed: Callable[[], None] | None = None) -> None:
        """Report, and do as told; `proceed` takes the step after all where it was only the norm that overflowed."""
        found = diagnose(learner, self._batches, self._losses)
        if proceed is not None and not (found.gradients or found.losses):
            proceed()
            return
        report = found.text(learner)
        if self.folder is not None and len(self.reports) < self.keep:
            report += f" The state and the batch are in {self._write(learner, found, report)}."
        self.reports.append(report)
        if self.then == "raise":
            raise NonFiniteError(report)
        if self.then == "stop":
            learner.stop_reason = report
        if (self.then == "stop" or len(self.reports) == 1) and learner.engine.is_rank_zero:
            warn(report, RuntimeWarning)
        if self.then == "stop":
            raise CancelFit
        learner.opt.zero_grad()

    def _write(self, learner: Learner, found: Diagnosis, report: str) -> Path:
        """Every process takes part, as the state is everybody's; the first one writes."""
        assert self.folder is not None
        epoch, batch = learner.epoch, learner.batch.index
        path = self.folder / f"nonfinite-step-{learner.steps + 1}-epoch-{epoch + 1}-batch-{batch + 1}.pt"
        state = fit_state.take(learner)
        if learner.engine.is_rank_zero:
            batches = [{"batch": number, "x": _to_plain(x), "y": _to_plain(y)} for number, x, y in self._batches]
            # Apart from the state, so that a fit may go on from it: with these gradients it would not get far.
            values, state["besides"]["gradients"] = state["besides"]["gradients"], {}
            state["progress"]["position"] = [epoch, batch - batch % learner.loop.accumulate]
            held = {"report": report, **found.plain(), "values": values, "state": state, "batches": batches}
            content = io.BytesIO()
            torch.save(held, content)
            write_bytes(path, content.getbuffer())
        return path


def _to_plain(value: Any) -> Any:
    """`value`, its tensors on the CPU; what a file read with `weights_only` cannot hold as its text."""
    if isinstance(value, Tensor):
        return value.detach().cpu()
    if isinstance(value, dict):
        return {str(key): _to_plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_to_plain(item) for item in value]
    return value if isinstance(value, (bool, int, float, str, type(None))) else repr(value)
