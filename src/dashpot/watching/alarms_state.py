"""Faults of single tensors: non-finite gradients, dead and stalled tensors, and large updates."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from dashpot.watching.alarms_found import Alarm
from dashpot.watching.alarms_sample import StepSample
from dashpot.watching.alarms_sudden import negligible

LASTING = 20
"""Number of consecutive steps of a lasting condition."""
STALLED = 0.5
"""Share of elements with a gradient but without a change from which a tensor is stalled."""
RATIO = 0.3
"""Ratio of update to weight from which updates of a matrix are too large."""


class StateDetector:
    """Tests conditions of single tensors. Except for non-finite numbers, they must hold for 20 consecutive steps.

    Args:
        names: Names of the tensors.
        matrices: Whether each tensor has at least two dimensions.
    """

    def __init__(self, names: Sequence[str], matrices: Sequence[bool]) -> None:
        self.names, self._matrices = names, np.array(matrices, dtype=bool)
        self._dead, self._stalled, self._large = (Lasting(len(names)) for _ in range(3))
        self._last = 0  # newest examined step

    def update(self, sample: StepSample, norms: np.ndarray) -> Iterator[Alarm]:
        """Yield the alarms of a step; `norms` are those of all elements of the gradients, -1 without a gradient."""
        yield from self._non_finite(sample, norms)
        yield from self._persistent(sample, norms)
        self._last = sample.step

    def _non_finite(self, sample: StepSample, norms: np.ndarray) -> Iterator[Alarm]:
        bad = np.flatnonzero(~np.isfinite(norms))
        if len(bad):
            name = self.names[int(bad[0])]
            several = f"The gradients of {len(bad)} of {len(self.names)} tensors are not finite, first {name}"
            text = several if len(bad) > 1 else f"The gradient of {name} is not finite"
            yield Alarm("non-finite", name, f"{text}{self._gap(sample.step)}.", _RESTORE, 1.0)
        elif sample.loss is not None and not math.isfinite(sample.loss):
            text = f"The loss is not finite; all gradients are finite{self._gap(sample.step)}."
            yield Alarm("non-finite", None, text, _RESTORE, 1.0)

    def _gap(self, step: int) -> str:
        """Return the last step that was examined, if the fault may have started before this one."""
        return "" if step == self._last + 1 else f"; the steps since {self._last} were not examined"

    def _persistent(self, sample: StepSample, norms: np.ndarray) -> Iterator[Alarm]:
        with np.errstate(all="ignore"):
            ratio = np.where(self._matrices, sample.update / sample.weight, 0.0)
        moving = (sample.stalled > STALLED) & (sample.rate != 0) & ~negligible(sample.grad)
        for j in self._dead.lasting(norms == 0):
            text = f"The gradient of {self.names[j]} has been exactly 0 for {LASTING} steps."
            yield Alarm("dead", self.names[j], text, "examine the activations in front of this tensor", 0.5)
        for j in self._stalled.lasting(moving):
            text = (
                f"{100 * sample.stalled[j]:.0f} % of {self.names[j]} did not change in a step, although its gradient "
                f"is not 0, for {LASTING} steps."
            )
            yield Alarm("stalled", self.names[j], text, _RESOLUTION, 0.5)
        for j in self._large.lasting(ratio > RATIO):
            text = (
                f"The update of {self.names[j]} is {ratio[j]:.2g} times its weights, for {LASTING} steps above {RATIO}."
            )
            yield Alarm("large ratio", self.names[j], text, "lower the learning rate of this tensor", 0.6)


_RESTORE = (
    "restore a checkpoint, and examine the batch of this step; if it is finite, limit gradients by max_norm or lower "
    "the learning rate"
)
_RESOLUTION = "keep weights in float32, or use stochastic rounding, or raise the learning rate"


class Lasting:
    """Counts the consecutive steps for which conditions hold.

    Args:
        tensors: Number of tensors.
    """

    def __init__(self, tensors: int) -> None:
        self._steps = np.zeros(tensors, dtype=int)

    def lasting(self, holds: np.ndarray) -> Sequence[int]:
        """Return the indices of the tensors whose condition now holds for `LASTING` steps, once until it ends."""
        self._steps = np.where(holds, self._steps + 1, 0)
        return np.flatnonzero(self._steps == LASTING).tolist()
