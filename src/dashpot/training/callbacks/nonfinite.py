"""Detection and diagnosis of non-finite gradients and losses, before an optimizer step applies them to the weights."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from dashpot import constraints
from dashpot.constraints import Interval, OneOf, shown
from dashpot.errors import ArgumentError, NonFiniteError
from dashpot.runs.files import make_folder, write_bytes
from dashpot.training.callback import Callback, CancelFit
from dashpot.training.callbacks.grad_norms import grad_norm
from dashpot.training.callbacks.nonfinite_evaluation import first_nonfinite_batch
from dashpot.training.callbacks.nonfinite_report import Diagnosis, diagnose
from dashpot.training.loop_state import Batch
from dashpot.training.optimizer_dict import named_optimizers
from dashpot.training.plain_optimizer import check_savable
from dashpot.training.state import fit_state
from dashpot.utils.schema import TEXT, ListOf, Maybe, Record, Rule
from dashpot.utils.warn import warn

if TYPE_CHECKING:
    from dashpot.training.learner import Learner

ACTIONS = OneOf(("stop", "skip", "raise"))
CHECKS = OneOf(("gradients", "loss"))
KEEP = Interval(1, math.inf, "left", integer=True)
MIN_LOSS_SCALE = 2.0**-10
"""Loss scale below which only gradients above 6e7 overflow in float16."""


class NonFinite(Callback):
    """Check for non-finite gradients before every optimizer step, and diagnose their origin.

    The report lists the parameters with non-finite gradients ("nan" if any element is NaN, else "inf"), the layers of
    these parameters, the first non-finite tensor of the batches, such as `y[2]["boxes"]`, non-finite weights, and the
    sum of the elements of each parameter. It also names the origin, found by repeating the actions `predict` and
    `get_loss`: the first module with finite inputs and a non-finite output, code outside of modules, the loss function,
    or, if all outputs and losses are finite, the first module of the backward pass with finite gradients of its output
    and non-finite gradients of its inputs or parameters. The repetition changes neither gradients nor buffers nor
    random states.

    A non-finite mean loss of an evaluation is diagnosed in the same way, once per fit, in an additional pass over the
    evaluation data up to the first batch with a non-finite loss. The fit continues after a warning, because an
    evaluation does not change the weights; only with `then="raise"`, `NonFiniteError` is raised.

    The check costs one gradient norm and one host sync per step. With a loss scaler (fp16), occasional infinities are
    normal, and the scaler skips these steps. With a scaler, this callback acts only if the loss scale falls below
    2^-10, because at such scales the infinities cannot be caused by the scaling.

    Args:
        then: Action for a non-finite step: "stop" ends the fit with a warning and sets `learner.stop_reason` to the
            report; "skip" skips the step, discards its gradient, does not advance schedules, and warns once, at the
            first skipped step; "raise" raises `NonFiniteError`.
        folder: Folder for files that contain the report, the state of the fit before the step, the gradients and the
            batches, readable with `torch.load(file, weights_only=True)`. None writes no files.
        check: "gradients" to check the gradients, or "loss" to check only the losses of the batches of the step.
        keep: Maximum number of files per fit, an integer >= 1.

    Attributes:
        reports: Reports of all non-finite steps of the fit.
        evaluation_report: Report of the first evaluation with a non-finite loss, or None.

    Raises:
        ArgumentError: If an argument is out of range.
        RunError: If the folder cannot be written.

    Example:
        >>> import torch
        >>> from dashpot import SGD, tasks
        >>> from dashpot.training import Engine, Learner
        >>> learner = Learner.of(tasks.get("digits").build(0), SGD, lr=0.1, engine=Engine("cpu"))
        >>> with torch.no_grad():
        ...     _ = next(learner.model.parameters()).view(-1)[0].fill_(torch.nan)
        >>> learner.fit(1, callbacks=[NonFinite(then="raise")])
        Traceback (most recent call last):
        dashpot.errors.NonFiniteError: Step 1 (epoch 1, batch 1) has non-finite gradients: ...
    """

    order: ClassVar[int] = 5

    def __init__(
        self,
        then: str = "stop",
        folder: str | os.PathLike[str] | None = None,
        check: str = "gradients",
        keep: int = 3,
    ) -> None:
        constraints.check("NonFinite", "then", then, ACTIONS)
        constraints.check("NonFinite", "check", check, CHECKS)
        constraints.check("NonFinite", "keep", keep, KEEP)
        if folder is not None and not isinstance(folder, (str, os.PathLike)):
            raise ArgumentError(f"NonFinite: folder must be None or a path, got {shown(folder)}.")
        self.then, self.check, self.keep = then, check, keep
        self.folder = None if folder is None else Path(folder)
        self.reports: list[str] = []
        self.evaluation_report: str | None = None
        self._batches: list[Batch] = []
        self._losses: list[Tensor] = []

    def settings(self) -> dict[str, Any]:
        return {"then": self.then, "check": self.check}

    def before_fit(self, learner: Learner) -> None:
        self.reports, self.evaluation_report = [], None
        self._forget()
        if self.folder is not None:
            for opt in named_optimizers(learner.opt).values():
                check_savable(opt, "NonFinite with a folder")
        if self.folder is not None and learner.engine.is_rank_zero:
            make_folder(self.folder)

    def after_backward(self, learner: Learner) -> None:
        if learner.loop.pending_batches == 1:
            self._forget()
        self._batches.append(replace(learner.batch, output=None, loss=None))
        self._losses.append(learner.batch.loss.detach())

    def step(self, learner: Learner, proceed: Callable[[], None]) -> None:
        try:
            self._checked_step(learner, proceed)
        finally:
            self._forget()

    def after_epoch(self, learner: Learner) -> None:
        loss = 0.0 if learner.training else learner.history[learner.epoch]["eval"].get("loss", 0.0)
        if math.isfinite(loss) or self.evaluation_report is not None:
            return
        self.evaluation_report = report = _evaluation_report(learner, loss)
        if self.then == "raise":
            raise NonFiniteError(report)
        if learner.engine.is_rank_zero:
            warn(report, RuntimeWarning)

    def _checked_step(self, learner: Learner, proceed: Callable[[], None]) -> None:
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
        self._forget()

    state_schema: ClassVar[Rule] = Record({"reports": ListOf(TEXT)}, {"evaluation_report": Maybe(TEXT)})

    def state_dict(self) -> dict[str, Any]:
        evaluation = {} if self.evaluation_report is None else {"evaluation_report": self.evaluation_report}
        return {"reports": list(self.reports), **evaluation}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.reports = list(state["reports"])
        self.evaluation_report = state.get("evaluation_report")

    def _forget(self) -> None:
        self._batches, self._losses = [], []

    def _is_finite(self, learner: Learner) -> bool:
        if self.check == "gradients":
            return math.isfinite(grad_norm(learner).item())
        finite = all(map(math.isfinite, torch.stack([loss.float() for loss in self._losses]).tolist()))
        return not learner.engine.any(not finite)

    def _handle(self, learner: Learner, proceed: Callable[[], None] | None = None) -> None:
        """Report the non-finite values and take the action `then`; if only the norm overflowed, take the step."""
        found = diagnose(learner, self._batches, self._losses)
        if proceed is not None and not (found.gradients or found.losses):
            proceed()
            return
        place = f"Step {learner.steps + 1} (epoch {learner.epoch + 1}, batch {learner.batch.index + 1})"
        report = found.text(place)
        if self.folder is not None and len(self.reports) < self.keep:
            report += f" State and batches are saved in {self._write(learner, found, report)}."
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
        """Write a file on rank 0 and return its path. This is a collective, because it gathers the state."""
        assert self.folder is not None
        epoch, batch = learner.epoch, learner.batch.index
        path = self.folder / f"nonfinite-step-{learner.steps + 1}-epoch-{epoch + 1}-batch-{batch + 1}.pt"
        state = fit_state.take(learner)
        learner.loop.plan.rewind(state, epoch, learner.batch.first_microbatch)
        if learner.engine.is_rank_zero:
            batches = [{"batch": b.index, "x": _to_plain(b.x), "y": _to_plain(b.y)} for b in self._batches]
            # The gradients are stored outside the state, so that a fit can resume from the state.
            values, state["besides"]["gradients"] = state["besides"]["gradients"], {}
            content = {"report": report, **found.plain(), "values": values, "state": state, "batches": batches}
            buffer = io.BytesIO()
            torch.save(content, buffer)
            write_bytes(path, buffer.getbuffer())
        return path


def _evaluation_report(learner: Learner, loss: float) -> str:
    """Return the report of an evaluation with the non-finite mean `loss`. This is a collective."""
    place = f"The evaluation of epoch {learner.epoch + 1}"
    found = first_nonfinite_batch(learner)
    if found is None:
        kind = "nan" if math.isnan(loss) else "inf"
        return f"{place} has a non-finite loss: {kind}. It was not reproduced in a second pass over the data."
    batch, value = found
    return diagnose(learner, [batch], [value]).text(f"{place} (batch {batch.index + 1})")


def _to_plain(value: Any) -> Any:
    """Return `value` with tensors moved to the CPU, and objects that `weights_only` cannot load replaced by strings."""
    if isinstance(value, Tensor):
        return value.detach().cpu()
    if isinstance(value, dict):
        return {str(key): _to_plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_to_plain(item) for item in value]
    return value if isinstance(value, (bool, int, float, str, type(None))) else repr(value)
