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
        loss: Mean loss of the batch, a 0-d tensor, or None.
        closure: Function without arguments that returns the mean loss of the batch at the current weights, with a
            graph, or None.
        sliced: Function of (first, last) that returns the mean loss over a range of the batch's examples, or None.
        size: Number of examples of the step, or None.
        examples: Number of examples of `closure` and `sliced`, which may be a micro-batch of the step, or None.
    """

    step: int
    loss: Tensor | None = None
    closure: Callable[[], Tensor] | None = None
    sliced: Callable[[int, int], Tensor] | None = None
    size: int | None = None
    examples: int | None = None


class Probe:
    """A measurement. Subclasses define `before_step`, `after_step` or both, and add rows to `watcher.record`.

    A probe is called at the steps `step % every == 1 % every` for which the budget covers its cost: `before_step` with
    the gradients of the step in place (possibly with the scale of a `GradScaler`, see `Watcher.grad_scale`), and
    `after_step` after the update of the same step. Probes must not change weights, gradients, buffers, optimizer state
    or random states. Without a result, the row contains `"reason"`, a sentence.

    Attributes:
        kind: Kind of the rows, and name of the cost.
        every: Number of steps between measurements.
        always: Whether the probe runs regardless of the budget (cheap probes only).
    """

    kind: ClassVar[str] = ""
    always: ClassVar[bool] = False
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
