"""A quadratic loss with a ripple, and its gradient after smoothing by a normal distribution."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from dashpot.data.seeding import generator

HEIGHT = 0.05
FREQUENCY = 10.0


@dataclass(frozen=True)
class RoughLoss:
    """f(w) = sum_i w_i^2/2 + height cos(frequency w_i + phase_i); the coordinates are independent.

    Args:
        phases: Phases of the ripple.
        start: Initial parameters, of the same shape.
    """

    phases: Tensor
    start: Tensor

    def value(self, w: Tensor) -> Tensor:
        """Return f for each coordinate."""
        return w**2 / 2 + HEIGHT * torch.cos(FREQUENCY * w + self.phases)

    def gradient(self, w: Tensor, sd: Tensor | float = 0.0) -> Tensor:
        """Return the gradient of E f(w + z), with z normal with standard deviation `sd`.

        Smoothing multiplies the ripple by exp(-(frequency sd)^2/2) and adds a constant to the quadratic part.
        """
        damping = torch.exp(-((FREQUENCY * torch.as_tensor(sd, dtype=w.dtype)) ** 2) / 2)
        return w - HEIGHT * FREQUENCY * damping * torch.sin(FREQUENCY * w + self.phases)


def rough_loss(seeds: Sequence[int], coordinates: int) -> RoughLoss:
    """Return a loss of shape (seeds, coordinates), with uniform phases and starts with standard deviation 3."""
    phases, starts = [], []
    for seed in seeds:
        random = generator("rough loss", seed)
        draw = partial(torch.rand, coordinates, dtype=torch.float64, generator=random)
        phases.append(2 * math.pi * draw())
        starts.append(3 * torch.randn(coordinates, dtype=torch.float64, generator=random))
    return RoughLoss(torch.stack(phases), torch.stack(starts))
