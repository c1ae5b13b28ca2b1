"""Runs of the experiment `normalisation`: many learning rates and seeds in one tensor.

The direction of a method without weight decay does not depend on the weight, so that the optimizer steps z with the
rate 1 and the weights are start + rate z, with a different rate in every row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dashpot.data.seeding import generator
from dashpot.optimizers.adam_variants import CenteredAdam
from dashpot.optimizers.base import Optimizer
from dashpot.optimizers.sgm import SGM
from dashpot.optimizers.torch_compatible import Adam
from dashpot.stages import CenteredMoment, Filter

POLE, BETA = 0.9, 0.999
Make = Callable[[list[nn.Parameter]], Optimizer]

RMS, SD, VARIANCE = "g/rms", "g/sd", "g/variance"


def maker(direction: str, eps: float = 1e-8) -> Make:
    """Return a function that creates the optimizer of a direction with lr = 1; other directions are not divided.

    Args:
        direction: `RMS` (Adam), `SD` (centred Adam) or `VARIANCE`, or another name for the averaged gradient.
        eps: Term added to the denominator.
    """

    def make(params: list[nn.Parameter]) -> Optimizer:
        if direction == RMS:
            return Adam(params, lr=1.0, betas=(POLE, BETA), eps=eps, engine="eager")
        if direction == SD:
            return CenteredAdam(params, lr=1.0, betas=(POLE, BETA), eps=eps, engine="eager")
        rate = CenteredMoment(BETA, eps, power="variance") if direction == VARIANCE else None
        return SGM(params, lr=1.0, filter=Filter(POLE), rate=rate, engine="eager")

    return make


def quadratic_losses(
    make: Make,
    rates: Sequence[float],
    seeds: Sequence[Any],
    *,
    curvature: Tensor,
    noise: Tensor,
    steps: int,
    replicas: int,
    waiting: int = 0,
    scale: Tensor | None = None,
) -> Tensor:
    """Return the mean final loss on noisy quadratics, of shape (rates, seeds). The rate falls linearly to zero.

    Args:
        make: Function that creates the optimizer.
        rates: Learning rates.
        seeds: Keys of the noise.
        curvature: Curvatures h of the coordinates, which start at 1.
        noise: Standard deviations of the gradient noise of the coordinates.
        steps: Number of steps with a positive rate.
        replicas: Number of runs per seed.
        waiting: Number of preceding steps with a rate of zero, in which the averages collect gradients.
        scale: Fixed denominators of the gradient, or None.
    """
    rate = torch.tensor(rates, dtype=torch.float64)[:, None, None, None]
    z = nn.Parameter(torch.zeros(len(rates), len(seeds), replicas, len(curvature), dtype=torch.float64))
    optimizer, draws = make([z]), [generator("normalisation", "quadratic", seed) for seed in seeds]
    w = torch.ones_like(z)
    for step in range(waiting + steps):
        normal = [torch.randn(replicas, len(curvature), dtype=torch.float64, generator=draw) for draw in draws]
        g = curvature * w + noise * torch.stack(normal)
        z.grad = g if scale is None else g / scale
        optimizer.param_groups[0]["lr"] = _factor(step - waiting, steps)
        optimizer.step()
        w = 1 + rate * z.detach()
    return (curvature * w.square() / 2).sum(3).mean(2)


def _factor(step: int, steps: int) -> float:
    return 0.0 if step < 0 else 1 - step / steps


def step_sizes(make: Make, scales: Sequence[float], seeds: Sequence[int], steps: int, replicas: int) -> Tensor:
    """Return the root mean square of the direction for white gradients, of shape (seeds, scales), after 2/3 of the run.

    Args:
        make: Function that creates the optimizer.
        scales: Standard deviations of the gradient.
        seeds: Seeds of the gradients.
        steps: Number of steps.
        replicas: Number of elements per seed and scale.
    """
    z = nn.Parameter(torch.zeros(len(seeds), len(scales), replicas, dtype=torch.float64))
    optimizer, draws = make([z]), [generator("normalisation", "steps", seed) for seed in seeds]
    size, total, count = torch.tensor(scales, dtype=torch.float64)[:, None], torch.zeros(z.shape[:2]).double(), 0
    for step in range(steps):
        normal = [torch.randn(len(scales), replicas, dtype=torch.float64, generator=draw) for draw in draws]
        z.grad, before = size * torch.stack(normal), z.detach().clone()
        optimizer.step()
        if 3 * step >= 2 * steps:
            total, count = total + (z.detach() - before).square().mean(2), count + 1
    return (total / count).sqrt()


class Digits:
    """Networks of 64, 32 and 10 units on the digits, one for each rate and seed."""

    def __init__(self, rates: Sequence[float], seeds: Sequence[Any], *, steps: int, batch: int = 50) -> None:
        from dashpot.data import digits

        data = digits.load()
        self.inputs = torch.tensor(data.train_images, dtype=torch.float32).flatten(1) / 8 - 1
        self.targets = torch.tensor(data.train_labels, dtype=torch.int64)
        self.rates, self.seeds, self.steps, self.batch = rates, seeds, steps, batch
        self.start = [torch.cat([values] * len(rates)) for values in self._start()]
        self.rate = torch.tensor(rates, dtype=torch.float32).repeat_interleave(len(seeds))[:, None, None]

    def _start(self) -> list[Tensor]:
        """Return weights and biases with normal weights of variance 1/inputs, one row for each seed."""
        draws = [generator("normalisation", "network", seed) for seed in self.seeds]
        shapes = ((64, 32), (1, 32), (32, 10), (1, 10))
        weights = [[torch.randn(shape, generator=draw) / shape[0] ** 0.5 for shape in shapes] for draw in draws]
        return [torch.stack(values) * (values[0].shape[0] > 1) for values in zip(*weights, strict=True)]

    def losses(self, make: Make) -> Tensor:
        """Return the final training loss, of shape (rates, seeds). The rate falls linearly to zero."""
        z = [nn.Parameter(torch.zeros_like(values)) for values in self.start]
        optimizer, draws = make(z), [generator("normalisation", "batches", seed) for seed in self.seeds]
        for step in range(self.steps):
            chosen = torch.stack([torch.randint(len(self.inputs), (self.batch,), generator=draw) for draw in draws])
            chosen = chosen.repeat(len(self.rates), 1)
            weights = [w.requires_grad_() for w in self._weights(z)]
            self._loss(weights, self.inputs[chosen], self.targets[chosen]).sum().backward()
            for p, w in zip(z, weights, strict=True):
                p.grad = w.grad
            optimizer.param_groups[0]["lr"] = _factor(step, self.steps)
            optimizer.step()
        with torch.no_grad():
            count = len(self.rates) * len(self.seeds)
            every = self.inputs.expand(count, -1, -1), self.targets.expand(count, -1)
            return self._loss(self._weights(z), *every).view(len(self.rates), len(self.seeds)).double()

    def _weights(self, z: Sequence[Tensor]) -> list[Tensor]:
        return [start + self.rate * p.detach() for start, p in zip(self.start, z, strict=True)]

    def _loss(self, weights: Sequence[Tensor], x: Tensor, y: Tensor) -> Tensor:
        """Return the mean cross-entropy of each network."""
        hidden = torch.relu(torch.baddbmm(weights[1], x, weights[0]))
        scores = torch.baddbmm(weights[3], hidden, weights[2]).log_softmax(2)
        return -scores.gather(2, y[:, :, None]).mean((1, 2))
