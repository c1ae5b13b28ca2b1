"""State of the training loop: the current batch, and the position within a fit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import Tensor

from dashpot.training.logged_values import LoggedValues
from dashpot.training.step_loss import KeptGradients, StepLoss

if TYPE_CHECKING:
    from dashpot.tasks.running_means import RunningMeans
    from dashpot.training.callback import CallbackList
    from dashpot.training.fit_loop import FitLoop
    from dashpot.training.fit_plan import FitPlan
    from dashpot.training.loader import ResumableLoader


@dataclass
class Batch:
    """One batch of this rank, and the results computed from it.

    Attributes:
        x: Model input, on the engine's device.
        y: Target, on the engine's device.
        size: Number of examples on this rank.
        total: Number of examples on all ranks, or None if unknown.
        index: Index within the phase, from 0.
        first_microbatch: Index of the first micro-batch of the optimizer step.
        microbatches: Number of micro-batches of the optimizer step.
        is_last_microbatch: Whether the optimizer steps after this batch.
        output: Output of the model.
        loss: Mean loss, a 0-d tensor.
        counted: Number over which `loss` is a mean, a 0-d tensor, given by the loss or by the learner's `weight`; None
            for a mean over the examples.
        stepped: Whether the optimizer has stepped after this batch; False if the step was skipped.
        grad_norm: 2-norm of the gradient of the step before clipping, a 0-d tensor; None if not computed yet.
    """

    x: Any
    y: Any
    size: int
    total: int | None = None
    index: int = 0
    first_microbatch: int = 0
    microbatches: int = 1
    is_last_microbatch: bool = True
    output: Any = None
    loss: Any = None
    counted: Tensor | None = None
    stepped: bool = False
    grad_norm: Tensor | None = None

    @property
    def count(self) -> Any:
        """Number, or 0-d tensor, over which `loss` is a mean: the number of examples unless `counted` is given."""
        return self.size if self.counted is None else self.counted

    @property
    def remaining(self) -> int:
        """Number of micro-batches of the optimizer step from this one on."""
        return self.first_microbatch + self.microbatches - self.index


@dataclass
class LoopState:
    """State of one fit beyond the attributes of `Learner`.

    Attributes:
        callbacks: Callbacks of the fit, in order.
        means: Running means of the loss and the metrics over the phase.
        logged: Means of the values logged by `Learner.log` in the phase.
        phases: For each of the phases "train" and "eval", whether the fit has this phase.
        override: Whether the settings may differ from the settings in the checkpoint to resume.
        plan: Epochs of the fit and their batches.
        optimizers: Optimizers by name, if there are several.
        part: Name of the optimizer whose actions are in progress, if there are several, or None.
        pending_batches: Number of micro-batches whose gradients are accumulated for the next step.
        step_loss: Sum and count of the losses of these micro-batches, and the scale of their gradients.
        kept: Gradients that a callback has kept from the previous step.
        position: Indices (epoch, batch) of the next training batch.
        cut_at: Position at which a time limit has ended the training phase of the last epoch early, or None.
        phase: Current phase, "train" or "eval".
        loader: Loader of the current phase.
        event: Name of the event in progress.
        fit_loop: Loop that performs the actions of the learner and notifies the callbacks.
        unwinding: During cleanup events, the type of the exception that propagates beyond the scope (an error, or a
            cancellation of a wider scope), or None.
    """

    callbacks: CallbackList
    means: RunningMeans
    phases: Mapping[str, bool]
    override: bool
    plan: FitPlan
    logged: LoggedValues = field(default_factory=LoggedValues)
    optimizers: Mapping[str, Any] = field(default_factory=dict)
    part: str | None = None
    pending_batches: int = 0
    step_loss: StepLoss | Any = None
    kept: KeptGradients = field(default_factory=KeptGradients)
    position: tuple[int, int] = (0, 0)
    cut_at: tuple[int, int] | None = None
    phase: str = "train"
    loader: ResumableLoader | Any = None
    event: str = ""
    fit_loop: FitLoop | Any = None
    unwinding: type[BaseException] | None = None

    @property
    def accumulate(self) -> int:
        """Number of micro-batches per optimizer step. A callback may set it in `before_fit`."""
        return self.plan.accumulate

    @accumulate.setter
    def accumulate(self, batches: int) -> None:
        self.plan.accumulate = batches
