"""Stochastic gradient descent on a double well: populations and escape times, predicted and simulated.

The loss is L(w) = (w^2 - 1)^2/4 + tilt w, with minima near w = -1 and w = 1 and a barrier of about 1/4. In the limit of
small rates, w follows the diffusion dw = -L'(w) dt + sqrt(2 D(w)) dB with dt = lr and D = lr noise/2. For constant
noise, D is the temperature, and the stationary density is the Gibbs density exp(-L/D)/Z. For noise that depends on w,
the stationary density is exp(-integral of L'/D)/(Z D) instead.

Source: Gardiner, Handbook of Stochastic Methods, sections 5.2 (stationary densities, first passage times).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dashpot.experiments.copies import normal_noise, sample_path
from dashpot.optimizers.base import Optimizer
from dashpot.optimizers.torch_compatible import SGD

GRID = np.linspace(-3.0, 3.0, 6001)


@dataclass(frozen=True)
class DoubleWell:
    """Loss (w^2 - 1)^2/4 + tilt w, with gradient noise of variance noise (1 - slope tanh w).

    >>> DoubleWell(tilt=0.1).share_right(temperature=0.1) < 0.2
    True
    """

    noise: float = 16.0
    tilt: float = 0.0
    slope: float = 0.0

    def loss(self, w: Any) -> Any:
        """Return L(w)."""
        return (w**2 - 1) ** 2 / 4 + self.tilt * w

    def gradient(self, w: Any) -> Any:
        """Return L'(w)."""
        return w * (w**2 - 1) + self.tilt

    def variance(self, w: Any) -> Any:
        """Return the variance of the gradient noise at w."""
        return self.noise * (1 - self.slope * (torch.tanh(w) if isinstance(w, Tensor) else np.tanh(w)))

    def density(self, lr: float) -> np.ndarray:
        """Return the stationary density of the diffusion on `GRID`."""
        diffusion = lr * self.variance(GRID) / 2
        exponent = -_integral(self.gradient(GRID) / diffusion)
        values = np.exp(exponent - exponent.max()) / diffusion
        return values / _integral(values)[-1]

    def gibbs(self, temperature: float) -> np.ndarray:
        """Return the Gibbs density exp(-L/T)/Z on `GRID`."""
        values = np.exp(-(self.loss(GRID) - self.loss(GRID).min()) / temperature)
        return values / _integral(values)[-1]

    def share_right(self, *, lr: float | None = None, temperature: float | None = None) -> float:
        """Return the probability of w > 0 in the density of the diffusion (`lr`) or of Gibbs (`temperature`)."""
        density = self.density(lr) if lr is not None else self.gibbs(float(temperature or 0.0))
        below = _integral(density)
        return float(1 - np.interp(0.0, GRID, below))

    def escape_time(self, temperature: float, start: float = -1.0, end: float = 1.0) -> float:
        """Return the mean first passage time from `start` to `end`, in units of the sum of the rates.

        The formula is the double integral (1/T) int_start^end exp(L(y)/T) int_-inf^y exp(-L(z)/T) dz dy.
        """
        shifted = (self.loss(GRID) - self.loss(GRID).min()) / temperature
        outer = _integral(np.exp(shifted) * _integral(np.exp(-shifted))) / temperature
        return float(np.interp(end, GRID, outer) - np.interp(start, GRID, outer))


def _integral(values: np.ndarray) -> np.ndarray:
    """Return the cumulative trapezoidal integral over `GRID`, from its lower end."""
    steps = (values[1:] + values[:-1]) / 2 * np.diff(GRID)
    return np.concatenate([[0.0], np.cumsum(steps)])


@dataclass(frozen=True)
class WellSample:
    """Simulated weights and escapes of one learning rate.

    Args:
        weights: Tensor (seeds, samples): weights after the burn-in.
        escape_rate: Tensor (seeds,): first arrivals at the opposite minimum per unit of the sum of the rates, for the
            copies that started in the left well.
    """

    weights: Tensor
    escape_rate: Tensor


def simulate(
    well: DoubleWell,
    lr: float,
    seeds: Sequence[int],
    *,
    copies: int,
    burn_in: int,
    samples: int,
    every: int,
    create: Callable[[list[Tensor]], Optimizer] | None = None,
) -> WellSample:
    """Run SGD from both minima, half of the copies from each.

    Escapes are counted until the end of the burn-in. Copies that have not escaped count with their time at risk, as in
    the maximum-likelihood estimate of an exponential distribution with censoring.
    """
    draws = normal_noise("double well", seeds, copies)
    start = torch.ones(len(seeds), copies, dtype=torch.float64)
    start[:, : copies // 2] = -1.0
    waiting = start < 0
    at_risk = torch.zeros(len(seeds))
    escapes = torch.zeros(len(seeds))

    def gradient(w: Tensor) -> Tensor:
        return well.gradient(w) + well.variance(w).sqrt() * next(draws)

    def count(step: int, w: Tensor, optimizer: Optimizer) -> None:
        if step > burn_in:
            return
        at_risk.add_(waiting.sum(1))
        arrived = waiting & (w >= 1)
        escapes.add_(arrived.sum(1))
        waiting.logical_and_(~arrived)

    kept = sample_path(
        create or (lambda w: SGD(w, lr=lr)),
        gradient,
        start,
        burn_in + every * (samples - 1),
        keep_from=burn_in,
        every=every,
        after_step=count,
    )
    return WellSample(kept.transpose(0, 1).flatten(1), escapes / (at_risk * lr))
