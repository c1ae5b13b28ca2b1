"""Sudden causes: a batch with much larger gradients, or a jump of the learning rate."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from dashpot.watching.alarms_found import Alarm
from dashpot.watching.alarms_sample import StepSample

PAST = 30
"""Number of steps whose largest norm is the reference."""
LEAST = 20
"""Smallest number of steps of a reference."""
BATCH = 4.2
"""Factor of a gradient norm over its reference from which a batch is bad."""
WITH_LOSS = 2.0
"""Factor of both the loss and a gradient norm over their references from which a batch is bad."""
JUMP = 3.5
"""Factor of an update norm over its reference from which the rate has jumped."""


class SuddenDetector:
    """Compares the norms of each tensor with their largest values in the last steps.

    The largest of 30 values adapts to the noise of each tensor without an assumption about its distribution. A bad
    batch enlarges the gradient; a jump of the rate enlarges the update at a gradient of usual size. Values above a
    threshold enter the reference only up to the threshold, so that a second bad batch is found too.

    Args:
        names: Names of the tensors.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names
        self._grads, self._updates, self._losses = Reference(len(names)), Reference(len(names)), Reference(1)
        self._rate = math.nan

    def update(self, sample: StepSample) -> Iterator[Alarm]:
        """Yield the alarms of a step."""
        relevant = ~negligible(sample.grad) & self._grads.is_usual
        grads = relevant * self._grads.excess(sample.grad)
        updates = relevant * self._updates.excess(sample.update)
        self._grads.add(sample.grad, BATCH)
        self._updates.add(sample.update, JUMP)
        least = WITH_LOSS if self._loss_excess(sample.loss) > WITH_LOSS else BATCH
        j, k = int(np.argmax(grads)), int(np.argmax(updates))
        if grads[j] > least:
            yield self._bad_batch(j, grads, least, sample)
        elif updates[k] > JUMP:
            yield self._jump(k, updates, sample)
        self._rate = sample.rate

    def _loss_excess(self, loss: float | None) -> float:
        value = np.array([math.nan if loss is None else loss])
        excess = self._losses.excess(value)
        self._losses.add(value, WITH_LOSS)
        return float(excess[0])

    def _bad_batch(self, j: int, excess: np.ndarray, least: float, sample: StepSample) -> Alarm:
        loss = "" if sample.loss is None else f", at a loss of {sample.loss:.3g}"
        text = (
            f"The gradient of {self.names[j]} is {excess[j]:.3g} times the largest of the previous "
            f"{self._grads.count} steps{self._others(excess > least)}{loss}."
        )
        advice = f"examine the batch of step {sample.step}; {_CLIP}"
        return Alarm("bad batch", self.names[j], text, advice, _severity(excess[j]))

    def _jump(self, k: int, excess: np.ndarray, sample: StepSample) -> Alarm:
        text = (
            f"The update of {self.names[k]} is {excess[k]:.3g} times the largest of the previous "
            f"{self._updates.count} steps{self._others(excess > JUMP)}, at a gradient of usual size."
        )
        advice = self._rate_advice(sample, excess[k])
        return Alarm("rate jump", self.names[k], text, advice, _severity(excess[k]))

    def _rate_advice(self, sample: StepSample, excess: float) -> str:
        """Return the advice for a jump of the update, whose cause is the rate of the first group only if it rose."""
        if sample.rate > self._rate * math.sqrt(JUMP):
            rise = f"the learning rate rose from {self._rate:.3g} to {sample.rate:.3g}"
            return f"{rise}: examine the schedule at step {sample.step}, or divide the rate by {excess:.3g}"
        return (
            f"the learning rate of the first group is {sample.rate:.3g}, as before: examine other groups, and averages "
            "that small gradients or skipped steps have reduced"
        )

    def _others(self, above: np.ndarray) -> str:
        count = int(above.sum()) - 1
        return f" (likewise {count} more of {len(self.names)} tensors)" if count else ""


NEGLIGIBLE = 1e-5
"""Ratio of the gradient of a tensor to the largest one below which it is rounding noise."""


def negligible(grads: np.ndarray) -> np.ndarray:
    """Return which gradients are negligible, such as those of biases before a normalization."""
    finite = np.where(np.isfinite(grads), grads, 0.0)
    return np.isfinite(grads) & (grads <= NEGLIGIBLE * finite.max(initial=0.0))


_CLIP = "skip it, or limit gradients by max_norm at their usual norm"


def _severity(excess: float) -> float:
    return min(0.9, 0.5 + 0.1 * math.log(excess))


class Reference:
    """The largest value of each tensor in the last steps.

    Args:
        tensors: Number of tensors.
    """

    def __init__(self, tensors: int) -> None:
        self._values = np.zeros((PAST, tensors))
        self._largest = np.zeros(tensors)
        self._steps = 0

    @property
    def count(self) -> int:
        """Number of steps of the reference."""
        return min(self._steps, PAST)

    @property
    def is_usual(self) -> np.ndarray:
        """Whether a tensor had enough values above 0 for a usual size; otherwise, only decay or momentum moved it."""
        return (self._values > 0).sum(0) >= LEAST

    def excess(self, values: np.ndarray) -> np.ndarray:
        """Return the factors of values over the reference; 0 if unknown."""
        if self._steps < LEAST:
            return np.zeros_like(self._largest)
        with np.errstate(all="ignore"):
            factors = np.where(self._largest > 0, values / self._largest, 0.0)
        return np.where(np.isfinite(factors), factors, 0.0)

    def add(self, values: np.ndarray, limit: float) -> None:
        """Add the values of a step; those above `limit` times the reference are reduced to it."""
        finite = np.where(np.isfinite(values), values, 0.0)
        with np.errstate(over="ignore"):
            capped = np.minimum(finite, limit * self._largest) if self._steps >= LEAST else finite
        self._values[self._steps % PAST] = np.where(self._largest > 0, capped, finite)
        self._steps += 1
        self._largest = self._values.max(0)
