"""Power law fitted to the values of a schedule."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from dashpot.constraints import shown
from dashpot.errors import ArgumentError


class PowerFit(NamedTuple):
    """Fit of eta_t = c t^-power to the second half of the values, with t = 1 for the first value.

    Attributes:
        power: Exponent p; the negative least-squares slope of log(eta) on log(t).
        prefactor: The constant c.
        steps: Number T of values; the fit uses T/2 < t <= T.
    """

    power: float
    prefactor: float
    steps: int


def power_fit(values: Sequence[float]) -> PowerFit:
    """Fit a power law to positive values by least squares.

    >>> fit = power_fit([t**-0.5 for t in range(1, 10_001)])
    >>> round(fit.power, 9), round(fit.prefactor, 9)
    (0.5, 1.0)
    """
    steps = len(values)
    t = np.arange(steps // 2 + 1, steps + 1)
    x, y = np.log(t), np.log(np.asarray(values, dtype=float)[steps // 2 :])
    slope = float(np.dot(x - x.mean(), y) / np.dot(x - x.mean(), x - x.mean()))
    return PowerFit(-slope, math.exp(float(y.mean() - slope * x.mean())), steps)


def checked_rates(owner: str, values: Sequence[float]) -> list[float]:
    """Return the values as floats.

    Raises:
        ArgumentError: If a value is negative or not finite.
    """
    rates = []
    for step, value in enumerate(values):
        try:
            rate = float(value)
        except (TypeError, ValueError):
            rate = math.nan
        if not 0 <= rate < math.inf:
            raise ArgumentError(
                f"{owner}: the learning rate must be a number in [0, inf) at every step, got {shown(value)} at {step}."
            )
        rates.append(rate)
    return rates
