"""State of the training loop: the current batch, and the position within a fit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import Tensor

from dashpot.training.logged_values import LoggedValues

if TYPE_CHECKING:
    from dashpot.tasks.running_means import RunningMeans
    from dashpot.training.callback import CallbackList
    from dashpot.training.fit_plan import FitPlan
    from dashpot.training.loader import ResumableLoader


@dataclass
class Batch:
    """One batch of this rank, and the results computed from it.

    Attributes:
        x: Model input, on the engine's device.
        y: Target, on the engine's device.
        size: Number of examples on this rank.
        weight: Weight of the mean loss of this batch in the loss of its optimizer step.
        index: Index within the phase, from 0.
        examples: Number of examples on all ranks.
        first_microbatch: Index of the first micro-batch of the optimizer step.
        is_last_microbatch: Whether the optimizer steps after this batch.
        output: Output of the model.
        loss: Mean loss, a 0-d tensor.
        stepped: Whether the optimizer has stepped after this batch; False if the step was skipped.
        grad_norm: 2-norm of the gradient of the step before clipping, a 0-d tensor; None if not computed yet.
    """

    x: Any
    y: Any
    size: int
    weight: float
    index: int = 0
    examples: int = 0
    first_microbatch: int = 0
    is_last_microbatch: bool = True
    output: Any = None
    loss: Any = None
    stepped: bool = False
    grad_norm: Tensor | None = None


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
        pending_batches: Number of micro-batches whose gradients are accumulated for the next step.
        position: Indices (epoch, batch) of the next training batch.
        cut_at: Position at which a time limit has ended the training phase of the last epoch early, or None.
        phase: Current phase, "train" or "eval".
        loader: Loader of the current phase.
        event: Name of the event in progress.
        unwinding: During cleanup events, the type of the exception that propagates beyond the scope (an error, or a
            cancellation of a wider scope), or None.
    """

    callbacks: CallbackList
    means: RunningMeans
    phases: Mapping[str, bool]
    override: bool
    plan: FitPlan
    logged: LoggedValues = field(default_factory=LoggedValues)
    pending_batches: int = 0
    position: tuple[int, int] = (0, 0)
    cut_at: tuple[int, int] | None = None
    phase: str = "train"
    loader: ResumableLoader | Any = None
    event: str = ""
    unwinding: type[BaseException] | None = None

    @property
    def accumulate(self) -> int:
        """Number of micro-batches per optimizer step. A callback may set it in `before_fit`."""
        return self.plan.accumulate

    @accumulate.setter
    def accumulate(self, batches: int) -> None:
        self.plan.accumulate = batches
