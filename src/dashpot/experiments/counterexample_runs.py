"""Stochastic gradient descent on the losses of `counterexamples`, with rates that satisfy the conditions.

The rates are lr/(1 + rate t), which satisfy the Robbins-Monro conditions. The stochastic gradient is the gradient times
a random factor with mean 1, as for examples with the same minimum but different curvatures, plus noise for the saddle.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from dashpot.experiments import counterexamples as losses
from dashpot.experiments.copies import normal_noise, sample_path
from dashpot.optimizers.torch_compatible import SGD
from dashpot.schedules import InverseTime

FACTOR_SD = 0.3
"""Standard deviation of the random factor of the gradient."""
VALLEY = 2 * math.atan(0.5)
"""Phase of the valley of the spiral loss."""
ESCAPE_LR, ESCAPE_DECAY = 4.0, 1e-3
SADDLE_LR, SADDLE_DECAY = 0.1, 1e-2
SPIRAL_LR, SPIRAL_DECAY = 0.1, 1e-4


@dataclass(frozen=True)
class Run:
    """Positions of a run; all tensors have the shape (times, seeds) or (times, 2, seeds).

    Args:
        steps: Steps done at the kept positions.
        positions: The kept positions.
    """

    steps: list[int]
    positions: Tensor


def escaping(seeds: Sequence[int], steps: int) -> Run:
    """Run on log(1 + exp(-w)) from w = 0."""
    return _run("escaping", losses.escaping_gradient, torch.zeros(len(seeds)), seeds, steps, ESCAPE_LR, ESCAPE_DECAY)


def saddle(seeds: Sequence[int], steps: int, noise: float) -> Run:
    """Run from (1, 0), on the line that leads to the saddle; `noise` is the sd of noise in both coordinates."""
    start = torch.stack([torch.ones(len(seeds)), torch.zeros(len(seeds))])
    gradient = losses.saddle_gradient
    return _run("saddle", gradient, start, seeds, steps, SADDLE_LR, SADDLE_DECAY, noise)


def spiral(seeds: Sequence[int], steps: int) -> Run:
    """Run on the spiral loss from the valley at distance 1 from the circle."""
    start = 2 * torch.tensor([math.cos(VALLEY), math.sin(VALLEY)])[:, None].expand(2, len(seeds))
    return _run("spiral", losses.spiral_gradient, start, seeds, steps, SPIRAL_LR, SPIRAL_DECAY)


def turned(run: Run) -> np.ndarray:
    """Return the angle by which each seed has turned around the origin."""
    angles = np.unwrap(torch.atan2(run.positions[:, 1], run.positions[:, 0]).numpy(), axis=0)
    return angles[-1] - angles[0]


def _run(
    key: str,
    gradient: Callable[[Tensor], Tensor],
    start: Tensor,
    seeds: Sequence[int],
    steps: int,
    lr: float,
    decay: float,
    noise: float = 0.0,
) -> Run:
    start = start.double()
    shape = start.shape
    copies = start.numel() // len(seeds)
    factors = normal_noise(f"{key} factor", seeds, 1)
    added = normal_noise(f"{key} noise", seeds, copies)

    def stochastic(w: Tensor) -> Tensor:
        factor = 1 + FACTOR_SD * next(factors).squeeze(1)
        return gradient(w) * factor + (noise * next(added).T.reshape(shape) if noise else 0.0)

    every = max(1, steps // 300)
    create = partial(SGD, lr=lr, schedule=InverseTime(decay))
    path = sample_path(create, stochastic, start, steps // every * every, every=every)
    return Run([k * every for k in range(len(path))], path)
