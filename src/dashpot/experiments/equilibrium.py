"""Stationary distribution of a weight under a quadratic loss with normal gradient noise, by simulation."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from dashpot.errors import ArgumentError
from dashpot.experiments.copies import normal_noise, sample_path
from dashpot.optimizers.base import Optimizer

Create = Callable[[list[Tensor]], Optimizer]


def stationary_weights(
    create: Create,
    seeds: Sequence[int],
    *,
    copies: int,
    burn_in: int,
    samples: int,
    every: int,
    noise: float = 1.0,
    batch: int = 1,
    key: str = "equilibrium",
) -> Tensor:
    """Return weights of shape (seeds, samples * copies) after `burn_in` steps from w = 0.

    The loss is w^2/2, so its curvature is 1. The gradient of one example has variance `noise`; the mean over a batch
    has variance noise/batch, and is drawn directly. `key` selects the random numbers.

    >>> import dashpot as dp
    >>> w = stationary_weights(lambda w: dp.SGD(w, lr=0.5), [0], copies=2000, burn_in=50, samples=2, every=20)
    >>> w.shape, abs(w.var().item() / (0.5 / 1.5) - 1) < 0.1
    (torch.Size([1, 4000]), True)
    """
    draws = normal_noise(key, seeds, copies)
    scale = (noise / batch) ** 0.5
    start = torch.zeros(len(seeds), copies, dtype=torch.float64)
    steps = burn_in + every * (samples - 1)
    kept = sample_path(create, lambda w: w + scale * next(draws), start, steps, keep_from=burn_in, every=every)
    return kept.transpose(0, 1).flatten(1)


def influence_of_one_gradient(create: Create, steps: int) -> float:
    """Return the total displacement caused by one unit gradient, followed by gradients of zero.

    >>> import dashpot as dp
    >>> round(influence_of_one_gradient(lambda w: dp.HeavyBall(w, lr=0.1, pole=0.5), 60), 12)
    0.2
    """
    grads = iter([1.0] + [0.0] * (steps - 1))
    start = torch.zeros(1, dtype=torch.float64)
    path = sample_path(create, lambda w: torch.full_like(w, next(grads)), start, steps, keep_from=steps)
    return -path[-1].item()


def defined(value: float | None) -> float:
    """Return a number of an analysis that is defined for stable settings.

    >>> defined(0.5)
    0.5
    """
    if value is None:
        raise ArgumentError("defined: value must be a number, got None.")
    return value


def distribution_distance(a: Tensor, b: Tensor) -> float:
    """Return the Kolmogorov-Smirnov distance of two samples: the largest difference of their distribution functions.

    >>> distribution_distance(torch.tensor([0.0, 1.0]), torch.tensor([2.0, 3.0]))
    1.0
    """
    points = torch.cat([a, b]).sort().values
    below = [torch.searchsorted(x.sort().values, points, right=True) / len(x) for x in (a, b)]
    return (below[0] - below[1]).abs().max().item()
