"""Values of steps for loggers, buffered on the device; with several optimizers, of each of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from dashpot.tasks.running_means import SYNC_INTERVAL
from dashpot.training.callbacks.for_optimizer import ForOptimizer
from dashpot.training.callbacks.recorder import StepRecorder

if TYPE_CHECKING:
    from dashpot.training.learner import Learner

Entry = tuple[int, int, dict[str, float]]
"""Epoch and step, counted from 1, and the values of the step, of which the loss is the first."""


class StepValues:
    """Loss and hyperparameters of chosen steps. The hooks have the arguments of the events and actions of a callback.

    With several optimizers, the names end in the name of the optimizer, such as `lr_generator`, and `loss` is the sum
    of `loss_NAME`.

    Args:
        learner: Learner at the start of a fit.
        values: Names of the values, in addition to the loss; see `Recorder` for the names.

    Attributes:
        names: Names of the values of an entry, in order.
    """

    def __init__(self, learner: Learner, values: Sequence[str]) -> None:
        own = [name for name in values if name != "loss"]
        parts = list(learner.loop.optimizers) or [""]
        self._recorders = {part: StepRecorder(*own) for part in parts}
        self._steps: dict[str, list[tuple[int, int]]] = {part: [] for part in parts}
        for part, recorder in self._recorders.items():
            (ForOptimizer(part, recorder) if part else recorder).before_fit(learner)
        self.names = list(dict.fromkeys(["loss", *(_name(name, part) for part in parts for name in ("loss", *own))]))

    def after_backward(self, learner: Learner) -> None:
        """Measure the gradient norm before clipping."""
        self._recorders[learner.loop.part or ""].after_backward(learner)

    def cleanup_batch(self, learner: Learner) -> None:
        """Measure the gradient norm of a step whose last micro-batch was cancelled."""
        next(iter(self._recorders.values())).cleanup_batch(learner)

    def step(self, learner: Learner, proceed: Callable[[], None]) -> None:
        """Record the values of the step."""
        part = learner.loop.part or ""
        self._recorders[part].step(learner, proceed)
        if learner.batch.stepped:
            self._steps[part].append((learner.epoch + 1, learner.steps + 1))  # incremented after the action

    @property
    def full(self) -> bool:
        """Whether the values should be read from the device."""
        return max(map(len, self._steps.values())) >= SYNC_INTERVAL

    def pop(self) -> list[Entry]:
        """Return and remove the recorded entries; all ranks must call this method together."""
        found: dict[tuple[int, int], dict[str, float]] = {}
        for part, recorder in self._recorders.items():
            for place, row in zip(self._steps[part], recorder.pop_rows(), strict=True):
                found.setdefault(place, {}).update({_name(name, part): value for name, value in row.items()})
            self._steps[part].clear()
        if "" in self._recorders:
            return [(*place, row) for place, row in found.items()]
        return [(*place, {"loss": self._total(row), **row}) for place, row in sorted(found.items())]

    def _total(self, row: dict[str, float]) -> float:
        return sum(row.get(_name("loss", part), 0.0) for part in self._recorders)


def _name(name: str, part: str) -> str:
    return f"{name}_{part}" if part else name
