"""Trend of the loss with its interval."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from dashpot.utils.student import t_quantile
from dashpot.watching.report_rows import Curve, loss_curve
from dashpot.watching.series import WatchRecord

FEWEST = 10
"""Smallest number of losses of a trend."""
Array = npt.NDArray[np.float64]


class Trend(NamedTuple):
    """Line through the losses of the last half of a run, or through their logarithms if all losses are positive.

    Attributes:
        change: Relative change along the line.
        low: Lower end of the 95 % interval of `change`.
        high: Upper end of the interval.
        spread: Standard deviation of the losses around the line, relative to the loss.
        samples: Number of losses.
        steps: Number of steps between the first and the last of them.
        level: Value of the line at the last step.
    """

    change: float
    low: float
    high: float
    spread: float
    samples: int
    steps: int
    level: float


def loss_trend(record: WatchRecord) -> Trend | str:
    """Return the trend of the loss over the last half of the run, or the reason for its absence."""
    last = record.rows("loss").last
    if last is not None and last.get("loss") is None:
        return f"The losses until step {last['step']} are not finite."
    steps, losses = _last_half(loss_curve(record))
    if not steps:
        return "The loss is unknown: pass it to `watcher.observe`."
    if len(losses) < FEWEST:
        return f"The trend of the loss needs {FEWEST} measured losses in the last half of the run, got {len(losses)}."
    with np.errstate(all="ignore"):
        found = fit(np.asarray(steps, dtype=np.float64), np.asarray(losses, dtype=np.float64))
    if isinstance(found, Trend) and not all(map(math.isfinite, found)):
        return "The losses are too large for a trend."
    return found


def _last_half(points: Curve) -> Curve:
    """Return the points of the last half of the steps."""
    steps, losses = points
    first = next((i for i, step in enumerate(steps) if step >= (steps[0] + steps[-1]) / 2), 0)
    return steps[first:], losses[first:]


def fit(steps: Array, losses: Array) -> Trend | str:
    """Fit a line by least squares; the interval allows for correlated residuals.

    With the correlation c of neighboring residuals, n samples count as n (1 - c)/(1 + c), as for a first-order
    autoregressive process.
    """
    size = float(np.abs(losses).mean())
    if size == 0:
        return "All losses are 0."
    if steps[0] == steps[-1]:
        return "All losses are of one step."
    is_positive = bool((losses > 0).all())
    y = np.log(losses) if is_positive else losses / size
    x = steps - steps.mean()
    slope = float(x @ y / (x @ x))
    rest = y - y.mean() - slope * x
    spread = math.sqrt(float(rest @ rest) / (len(rest) - 2))
    correlation = min(0.9, max(0.0, float(rest[1:] @ rest[:-1]) / float(rest @ rest))) if spread else 0.0
    freedom = max(1, int((len(rest) - 2) * (1 - correlation) / (1 + correlation)))
    error = spread / math.sqrt(float(x @ x)) * math.sqrt((1 + correlation) / (1 - correlation))
    half, span = t_quantile(freedom) * error, float(steps[-1] - steps[0])
    ends = [value * span for value in (slope, slope - half, slope + half)]
    change, low, high = (math.expm1(min(value, 100.0)) for value in ends) if is_positive else ends
    end = float(y.mean() + slope * x[-1])
    level = math.exp(end) if is_positive else end * size
    return Trend(change, low, high, spread, len(x), int(span), level)
