"""Slow instabilities: growth of updates or gradients past the minimum along each step, or of the roughness."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from statistics import median
from typing import NamedTuple

import numpy as np

from dashpot.watching.alarms_found import Alarm
from dashpot.watching.alarms_sample import StepSample

WINDOW = 16
"""Number of steps of medians and means."""
START = 20
"""First step of a reference."""
UPDATES = 4.5
"""Growth of the median update norm since its minimum from which updates grow."""
GRADIENTS = 2.5
"""Growth of the median gradient norm since its minimum from which gradients grow."""
ROUGHNESS = 3.0
"""Growth of the median norm of second differences of the gradient since its minimum from which roughness grows."""
ROUGH = (0.15, 1.0)
"""Range of the ratio of second differences to gradients in which roughness can grow; sqrt(6) for independent noise."""
RISEN = 1.2
"""Growth of the median gradient norm since its minimum that growing roughness requires."""
DESCENT = -0.1
"""Mean cosine of an update and the next gradient below which steps descend, and growth is measured anew."""


class SlowDetector:
    """Tests three signs that the rate approaches or exceeds the edge of stability.

    An update that overshoots the minimum along its own direction has a positive inner product with the next gradient,
    on average also over minibatches, since the noise of a new batch is independent of the update. While the mean cosine
    of both is positive, training does not descend along its updates, and growing updates or gradients are signs of an
    instability: of a growing rate, of sharpening, or of a second moment that lags behind the gradients.

    With large batches, consecutive gradients differ little until a direction becomes unstable. There the gradient
    alternates with a growing amplitude, and its second differences grow long before the loss does. This sign is not
    used for methods with a second moment, which follows the growing gradient and lowers the rate.

    Args:
        names: Names of the tensors.
        horizon: Steps of the average of the second moment, 1/(1 - beta2), or None.
    """

    def __init__(self, names: Sequence[str], horizon: float | None = None) -> None:
        self.names, self.horizon = names, horizon
        self._updates, self._gradients, self._jerks, self._levels = Growth(), Growth(), Growth(), Growth()
        self._overshoot = deque[float](maxlen=WINDOW)
        self._last = math.nan  # norm of the last update

    def update(self, sample: StepSample) -> Iterator[Alarm]:
        """Yield the alarms of a step."""
        update, grad, jerk = _total(sample.update), _total(sample.grad), _total(sample.jerk)
        if not np.isnan(sample.slope).all():  # otherwise, the previous step has no sample
            self._overshoot.append(_cosine(sample.slope, grad, self._last))
        self._last = update
        self._updates.add(sample.step, update, sample.update)
        self._gradients.add(sample.step, grad, sample.grad)
        self._jerks.add(sample.step, jerk, sample.jerk)
        self._levels.add(sample.step, grad, sample.grad)
        if len(self._overshoot) == WINDOW:
            yield from self._grown(sample)
            yield from self._roughened()

    def _grown(self, sample: StepSample) -> Iterator[Alarm]:
        overshoot = _mean(self._overshoot)
        if overshoot < DESCENT:
            self._updates.restart()
            self._gradients.restart()
        if overshoot <= 0:
            return
        for kind, growth, least in (
            ("growing updates", self._updates, UPDATES),
            ("growing gradients", self._gradients, GRADIENTS),
        ):
            found = growth.found()
            if found is not None and found.factor > least:
                yield self._growing(kind, found, overshoot, sample.step)

    def _growing(self, kind: str, found: Grown, overshoot: float, step: int) -> Alarm:
        what = kind.removeprefix("growing ")
        name = self.names[found.tensor]
        text = (
            f"The norm of the {what} is {found.factor:.3g} times its minimum near step {found.since}, most in {name} "
            f"({found.factors[found.tensor]:.3g} times), and steps overshoot: the mean cosine of an update and the "
            f"next gradient is {overshoot:+.2f}."
        )
        steps = max(1, step - found.since) / math.log(found.factor)
        return Alarm(kind, name, text, self._advice(found.factor, steps), 0.7)

    def _advice(self, factor: float, steps: float) -> str:
        lower = f"lower the learning rate by the factor {factor:.2g}"
        if self.horizon is None or self.horizon <= steps:
            return lower
        return (
            f"{lower}, or lower beta2 to {1 - 1 / max(steps, 2):.3g}: its horizon is {self.horizon:.0f} steps, and the "
            f"time constant of the growth {steps:.3g}"
        )

    def _roughened(self) -> Iterator[Alarm]:
        if self.horizon is not None:
            return
        found, gradients = self._jerks.found(), self._levels.found()
        if found is None or gradients is None or found.factor <= ROUGHNESS or gradients.factor <= RISEN:
            return
        ratio = self._jerks.median / self._gradients.median
        if not ROUGH[0] < ratio < ROUGH[1]:
            return
        name = self.names[found.tensor]
        text = (
            f"The smooth gradient becomes rough: its second differences are {found.factor:.3g} times their minimum "
            f"near step {found.since}, most in {name} ({found.factors[found.tensor]:.3g} times)."
        )
        yield Alarm("growing roughness", name, text, "lower the learning rate by the factor 2", 0.6)


class Grown(NamedTuple):
    """Growth of the norm of all tensors since its minimum.

    Attributes:
        factor: Factor of all tensors together.
        factors: Factors of the tensors.
        tensor: Index of the largest factor.
        since: Step of the minimum.
    """

    factor: float
    factors: np.ndarray
    tensor: int
    since: int


class Growth:
    """Median of a norm over a window, relative to the smallest median so far."""

    def __init__(self) -> None:
        self._totals = deque[float](maxlen=WINDOW)
        self._tensors = deque[np.ndarray](maxlen=WINDOW)
        self._least = math.inf
        self.median = math.nan
        self._at_least: list[np.ndarray] = []
        self._since = 0

    def add(self, step: int, total: float, tensors: np.ndarray) -> None:
        """Add the norms of a step."""
        if not (math.isfinite(total) and total > 0):
            return
        self._totals.append(total)
        self._tensors.append(tensors)
        self.median = median(self._totals)
        if step >= START and len(self._totals) == WINDOW and self.median < self._least:
            self._least, self._since, self._at_least = self.median, step, list(self._tensors)

    def restart(self) -> None:
        """Forget the minimum."""
        self._least, self._at_least = math.inf, []

    def found(self) -> Grown | None:
        """Return the growth, or None before the first reference."""
        if not self._at_least:
            return None
        factor = self.median / self._least
        if factor < 2:
            return Grown(factor, np.zeros(0), 0, self._since)
        with np.errstate(all="ignore"):
            factors = np.median(self._tensors, 0) / np.median(self._at_least, 0)
        factors = np.where(np.isfinite(factors), factors, 0.0)
        return Grown(factor, factors, int(np.argmax(factors)), self._since)


def _total(norms: np.ndarray) -> float:
    return math.sqrt(float(np.nansum(norms * norms)))


def _cosine(products: np.ndarray, norm: float, other: float) -> float:
    scale = norm * other
    return float(np.nansum(products)) / scale if scale > 0 and math.isfinite(scale) else 0.0


def _mean(values: deque[float]) -> float:
    return sum(values) / len(values)
