"""Interface of measurements."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

if TYPE_CHECKING:
    from dashpot.watching.watcher import Watcher


@dataclass
class Moment:
    """What is known about one optimizer step.

    Attributes:
        step: Number of the step of this watcher, from 1.
        loss: Mean loss of the batch, a 0-d tensor or a number, or None.
        closure: Function without arguments that returns the mean loss of the batch at the current weights, with a
            graph, or None.
        sliced: Function of (first, last) that returns the mean loss over a range of the batch's examples, or None.
        size: Number of examples of the step, or None.
        examples: Number of examples of `closure` and `sliced`, which may be a micro-batch of the step, or None.
        has_gradients: Whether the gradients of the step exist before it; False for `optimizer.step(closure)`.
        scale: Scale of the gradients by a `GradScaler`, which the step itself divides by, or None.
        skipped: Whether the step is skipped: a bool, or on an accelerator a 0-d tensor. Valid in `after_step`.
        has_begun: Whether the step has begun since it was described.
    """

    step: int
    loss: Tensor | float | None = None
    closure: Callable[[], Tensor] | None = None
    sliced: Callable[[int, int], Tensor] | None = None
    size: int | None = None
    examples: int | None = None
    has_gradients: bool = True
    scale: Tensor | None = None
    skipped: Any = False
    has_begun: bool = False

    def loss_value(self) -> float | None:
        """Return the loss as a number; on an accelerator, this synchronizes with the host."""
        return None if self.loss is None else float(self.loss)


_LONGEST = 200  # characters of a message
NO_LOSS = "The function `sliced` must return the mean loss, a tensor of one element with a graph."


class MeasurementError(Exception):
    """Raised by a probe without a result; the message is the reason, one sentence."""


def failure(error: Exception) -> str:
    """Return the reason of a failed measurement, one line."""
    if isinstance(error, MeasurementError):
        return str(error)
    line = (str(error).strip() or "no message").splitlines()[0][:_LONGEST].rstrip(".")
    return f"The measurement failed: {type(error).__name__}: {line}."


class Probe:
    """A measurement. Subclasses define `before_step`, `after_step` or both, and add rows to `watcher.record`.

    A probe is called at the steps `step % every == 1 % every` for which the budget covers its cost, or later as soon as
    it does: `before_step` with the gradients of the step in place (possibly with the scale of a `GradScaler`, see
    `Watcher.grad_scale`), and `after_step` after the update of the same step. A skipped step has no `after_step`, and
    rows that `before_step` added are removed. Probes must not change weights, gradients, buffers, optimizer state or
    random states. Without a result, the row contains `"reason"`, a sentence. An exception becomes a
    row with a reason, and a probe that fails three times in a row is removed.

    On several ranks that all watch (`watcher.ranks.together`), every rank calls the probe at the same steps, so that it
    can communicate. Otherwise, it must not.

    Attributes:
        kind: Kind of the rows, and name of the cost.
        every: Number of steps between measurements.
        always: Whether the probe runs regardless of the credit (cheap probes only). If all such probes together exceed
            half of the budget, they run at fewer steps.
        prior: Cost in step times, assumed before the first measurement.
        communicates: Whether the measurement may communicate, for example in the closure of a DDP model; omitted if not
            all ranks watch.
        needs_gradients: Whether to omit steps with a closure, whose gradients do not exist before the step.
    """

    kind: ClassVar[str] = ""
    always: ClassVar[bool] = False
    prior: float = 0.1
    communicates: ClassVar[bool] = False
    needs_gradients: ClassVar[bool] = True
    every: int = 1

    @property
    def pending(self) -> bool:
        """Whether a measurement of several steps has begun, and needs the next step regardless of the budget."""
        return False

    def is_due(self, step: int) -> bool:
        """Return whether the probe measures at this step, if the budget allows."""
        return step % self.every == 1 % self.every

    def before_step(self, watcher: Watcher, moment: Moment) -> Any:
        """Measure before the update."""

    def after_step(self, watcher: Watcher, moment: Moment) -> Any:
        """Measure after the update."""

    def close(self) -> None:
        """Release hooks and memory; called when the watcher is closed."""
