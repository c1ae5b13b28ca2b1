"""Slow instabilities: growth of updates or gradients past the minimum along each step, and oscillation."""

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
UPDATES = 3.7
"""Growth of the median update norm since its minimum from which updates grow."""
GRADIENTS = 4.4
"""Growth of the median gradient norm since its minimum from which gradients grow."""
ROUGHNESS = 4.0
"""Growth of the median norm of second differences of the gradient since its minimum from which roughness grows."""
SMOOTH = 1.0
"""Ratio of second differences to gradients below which the gradient is smooth; sqrt(6) for independent noise."""
OSCILLATION = -0.94
"""Cosine of consecutive second differences of the gradient from which the run oscillates; -2/3 for independent noise."""


class SlowDetector:
    """Tests three signs that the rate approaches or exceeds the edge of stability.

    On a quadratic, an update that overshoots the minimum along its own direction has a positive inner product with the
    next gradient, also on average over minibatches, since the noise of a new batch is independent of the update. While
    the mean cosine of both is positive, training no longer descends along its updates, so larger updates or gradients
    can only come from the instability: a growing rate, sharpening, or a second moment that lags behind the gradients.
    At the edge of stability, the gradient alternates, and the cosine of its consecutive second differences tends to -1.

    Args:
        names: Names of the tensors.
        horizon: Steps of the average of the second moment, 1/(1 - beta2), or None.
    """

    def __init__(self, names: Sequence[str], horizon: float | None = None) -> None:
        self.names, self.horizon = names, horizon
        self._updates, self._gradients, self._jerks = Growth(), Growth(), Growth()
        self._overshoot, self._beat = deque[float](maxlen=WINDOW), deque[float](maxlen=WINDOW)
        self._rates = deque[float](maxlen=WINDOW)
        self._last = math.nan, math.nan  # total norms of the update and of the second difference of the last step

    def update(self, sample: StepSample) -> Iterator[Alarm]:
        """Yield the alarms of a step."""
        update, grad, jerk = _total(sample.update), _total(sample.grad), _total(sample.jerk)
        self._overshoot.append(_cosine(sample.slope, grad, self._last[0]))
        self._beat.append(_cosine(sample.beat, jerk, self._last[1]))
        self._last = update, jerk
        self._updates.add(sample.step, update, sample.update)
        self._gradients.add(sample.step, grad, sample.grad)
        self._jerks.add(sample.step, jerk, sample.jerk)
        if len(self._overshoot) == WINDOW:
            yield from self._grown(sample)
            yield from self._oscillating(sample)
            yield from self._roughened(sample)

    def _grown(self, sample: StepSample) -> Iterator[Alarm]:
        overshoot = _mean(self._overshoot)
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
            f"({found.factors[found.tensor]:.3g} times), and steps overshoot: the mean cosine of an update and the next "
            f"gradient is {overshoot:+.2f}."
        )
        steps = max(1, step - found.since) / math.log(found.factor)
        return Alarm(kind, name, text, self._advice(found.factor, steps), 0.7)

    def _advice(self, factor: float, steps: float) -> str:
        lower = f"lower the learning rate by the factor {factor:.2g}"
        if self.horizon is None or self.horizon <= steps:
            return lower
        return (
            f"{lower}, or lower beta2 to {1 - 1 / max(steps, 2):.3g}: its horizon is {self.horizon:.3g} steps, and the "
            f"time constant of the growth {steps:.3g}"
        )

    def _oscillating(self, sample: StepSample) -> Iterator[Alarm]:
        cosine = _mean(self._beat)
        if cosine >= OSCILLATION:
            return
        name = self.names[int(np.nanargmax(np.where(np.isfinite(sample.jerk), sample.jerk, 0)))]
        text = (
            f"The gradient alternates from step to step, most in {name}: the mean cosine of consecutive second "
            f"differences is {cosine:.2f} (-0.67 for noise, -1 at the edge of stability)."
        )
        yield Alarm("oscillation", name, text, "lower the learning rate by the factor 2", 0.6)


    def _roughened(self, sample: StepSample) -> Iterator[Alarm]:
        found = self._jerks.found()
        ratio = self._jerks.median / self._gradients.median
        if found is None or found.factor <= ROUGHNESS or ratio >= SMOOTH:
            return
        name = self.names[found.tensor]
        text = (
            f"The smooth gradient becomes rough: its second differences are {found.factor:.3g} times their minimum near "
            f"step {found.since}, most in {name} ({found.factors[found.tensor]:.3g} times)."
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
