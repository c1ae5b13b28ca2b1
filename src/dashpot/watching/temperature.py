"""The probe "temperature": fluctuation of the loss around its trend, predicted and measured.

Rows, from the latest losses of the rows "pulse" and the latest rows "noise", "curvature" and "spectrum":

    predicted       standard deviation of the batch loss: root of sampling^2 + 2 excess^2/directions, with the sampling
                    noise from parts of batches; an upper bound, since `directions` is a lower bound
    measured        standard deviation of the batch loss around its trend
    parts           measured: {sampling: white part, weights: part correlated over steps, sampling_error}
    expected        predicted: {sampling: from parts of batches, or None, samples; weights: upper bound from excess and
                    directions, or None}
    excess          mean loss above the minimum due to the fluctuation of the weights, gain tr(A Sigma)/(4 B)
    correction      factor on the temperature of the sharpest direction at its finite rate; 1 for small rates
    directions      lower bound of the effective number of directions, from the largest eigenvalues, or 1
    virial          temperatures of sampled weights, measured and predicted: 1 in a stationary state
    level, slope, steps    mean and trend per step of the losses, and their number
    reason          why numbers are None

See `temperature_estimates` for the formulas and their conditions: a constant rate, small rates, a stationary state,
and little decay, which lowers the excess loss.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

from dashpot.watching.batch_parts import difference_of_parts
from dashpot.watching.probe import Moment, Probe
from dashpot.watching.temperature_estimates import (
    Fluctuation,
    directions,
    excess_loss,
    fluctuation,
    rate_correction,
)

if TYPE_CHECKING:
    from dashpot.watching.watcher import Watcher

_FEWEST = 6  # losses of parts for an estimate of the sampling noise
_LATEST = 64
_ROWS = 4  # measurements per row
_NO_NOISE = "The noise of the gradients is unknown: there is no measurement with elementwise rates."
_NO_CURVATURE = "The number of directions is unknown without curvature: pass `closure` to `observe`."
_NO_PARTS = "The sampling noise of the loss is unknown: pass `sliced`, `size` and the loss to `observe`, unsharded."
_FEW_PARTS = "The noise of the loss of parts of batches was measured {} times, at least {} are required."


class TemperatureProbe(Probe):
    """Fluctuation of the loss around its trend, and the noise of the loss of parts of a batch."""

    kind: ClassVar[str] = "temperature"
    communicates: ClassVar[bool] = True
    needs_gradients: ClassVar[bool] = False
    prior = 0.3

    def __init__(self, every: int) -> None:
        self.every = every
        self._variances: deque[tuple[int, float]] = deque(maxlen=_LATEST)  # step, variance of the loss
        self._calls = 0

    def before_step(self, watcher: Watcher, moment: Moment) -> None:
        variance = difference_of_parts(watcher, moment)
        if variance is not None:
            self._variances.append((moment.step, variance))
        self._calls += 1
        if self._calls % _ROWS == 0:
            watcher.record.add(self.kind, {"step": moment.step, **self._row(watcher, moment)})

    def _row(self, watcher: Watcher, moment: Moment) -> dict[str, Any]:
        latest = {kind: watcher.record.rows(kind).last or {} for kind in ("noise", "curvature", "spectrum")}
        batch = moment.size or latest["noise"].get("batch")
        first, losses = latest_losses(watcher)
        found = fluctuation(losses)
        variances = [variance for step, variance in self._variances if step >= first(found.steps)]
        weights = predicted_weights(watcher, latest, batch)
        sampling = None
        if batch is not None and len(variances) >= _FEWEST:
            sampling = math.sqrt(sum(variances) / len(variances) / batch)
        row = combined(found, sampling, len(variances), weights, latest["spectrum"].get("virial"))
        if row["reason"] == _NO_PARTS and self._variances:
            row["reason"] = _FEW_PARTS.format(len(variances), _FEWEST)
        return row


def combined(
    found: Fluctuation, sampling: float | None, samples: int, weights: dict[str, Any], heat: Any
) -> dict[str, Any]:
    """Return the values of a row from measured losses, sampling noise and the prediction for the weights."""
    most = weights["weights"]
    predicted = None if sampling is None or most is None else math.hypot(sampling, most)
    reason = found.reason or weights["reason"] or (_NO_PARTS if sampling is None else None)
    return {
        "predicted": None if found.reason else predicted,
        "measured": found.deviation,
        "parts": {"sampling": found.sampling, "weights": found.weights, "sampling_error": found.sampling_error},
        "expected": {"sampling": sampling, "samples": samples, "weights": most},
        "excess": weights["excess"],
        "correction": weights["correction"],
        "directions": weights["directions"],
        "virial": heat,
        "level": found.level,
        "slope": found.slope,
        "steps": found.steps,
        "reason": reason,
    }


def predicted_weights(watcher: Watcher, latest: dict[str, Any], batch: float | None) -> dict[str, Any]:
    """Return the predicted excess loss and fluctuation due to the weights, or None with the reason."""
    nothing: dict[str, Any] = dict.fromkeys(("excess", "weights", "correction", "directions"))
    rates = watcher.rates()
    if rates.view is None:
        return {**nothing, "reason": rates.reason}
    trace = (latest["noise"].get("preconditioned") or {}).get("trace")
    if trace is None or trace <= 0 or batch is None:
        return {**nothing, "reason": _NO_NOISE}
    section = rates.group(_largest_group(watcher)).form.filter
    if section is None or section.dc_gain <= 0:
        return {**nothing, "reason": "The filter of the method has no linear form."}
    excess = excess_loss(trace, batch, section.dc_gain)
    eigenvalues = latest["curvature"].get("eigenvalues") or []
    ratio = latest["curvature"].get("ratio")
    number = directions(eigenvalues) or 1.0
    stable = ratio is not None and 0 < ratio < 0.95
    correction = rate_correction(section, eigenvalues[0]) if stable else None
    most = math.sqrt(2 / number) * excess
    found = {"excess": excess, "weights": most, "correction": correction, "directions": number}
    return {**found, "reason": None if eigenvalues else _NO_CURVATURE}


def latest_losses(watcher: Watcher) -> tuple[Callable[[int], int], list[float]]:
    """Return the latest losses at evenly spaced steps, oldest first, and the first step of the last n of them."""
    steps, losses = watcher.record.rows("pulse").column("loss")
    gap = steps[-1] - steps[-2] if len(steps) > 1 else 1
    first = max(0, len(steps) - 1)
    while first > 0 and steps[first] - steps[first - 1] == gap:
        first -= 1
    last = steps[-1] if steps else 0
    return (lambda n: last - (n - 1) * gap), [float(loss) for loss in losses[first:]]


def _largest_group(watcher: Watcher) -> int:
    sizes = [sum(p.numel() for p in group["params"]) for group in watcher.optimizer.param_groups]
    return sizes.index(max(sizes))
