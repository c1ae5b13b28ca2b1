"""Slow and fast cooling on a double well: the share of weights that end in the deeper well."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from dashpot.experiments.copies import normal_noise
from dashpot.experiments.double_well import DoubleWell

WELL = DoubleWell(tilt=0.1)
"""Double well whose deeper minimum is near w = -1."""
HIGH, LOW = 0.04, 0.0004
"""Rates at the beginning and at the end; the temperature is 8 times the rate."""


def share_in_deeper_well(seeds: Sequence[int], steps: int, copies: int) -> list[float]:
    """Return the share of copies with w < 0 after the rate has fallen exponentially from `HIGH` to `LOW`.

    All copies start in the shallower minimum, w = 1.

    Args:
        seeds: Seeds of the gradient noise.
        steps: Number of steps.
        copies: Number of copies per seed.

    >>> share_in_deeper_well([0], steps=1, copies=10)
    [0.0]
    """
    draws = normal_noise("annealing", seeds, copies)
    w = torch.ones(len(seeds), copies, dtype=torch.float64)
    for step in range(steps):
        lr = HIGH * (LOW / HIGH) ** (step / steps)
        w -= lr * (WELL.gradient(w) + WELL.noise**0.5 * next(draws))
    return (w < 0).double().mean(1).tolist()
