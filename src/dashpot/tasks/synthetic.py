"""Synthetic tasks: surfaces with a known minimum, with or without gradient noise of known variance.

An epoch is a fixed number of steps. The evaluation loss is the value of the surface without noise. The minimum of the
evaluation loss is 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dashpot.constraints import Interval, check
from dashpot.data import SEED, Batches, generator
from dashpot.tasks.option_checks import check_options
from dashpot.tasks.surfaces import Quadratic, Rosenbrock, Saddle, Surface, spectrum
from dashpot.tasks.task import Problem, Target, Task


@dataclass(frozen=True)
class GradientNoise:
    """A `Stream` of independent normal gradient noise.

    Each step is a pair (x, y): the noise x has the shape (batch_size, dimension), and y is an unused zero per example.

    The noise of an epoch is a pure function of (seed, epoch), like the order of `Batches`.

    Args:
        dimension: Number of elements of the gradient.
        steps: Number of steps per epoch.
        variance: Variance of every element for every example; >= 0. The gradient of a step is the mean over its batch.
        seed: Seed of the noise, an integer in [0, 2**32 - 1].
        device: Device of the noise. The noise is drawn on the CPU and is therefore the same on every device.
        batch_size: Number of examples per step; >= 1.
    """

    dimension: int
    steps: int
    variance: float
    seed: int
    device: str = "cpu"
    batch_size: int = 1

    def __len__(self) -> int:
        """Return the number of steps per epoch."""
        return self.steps

    def epoch(self, index: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Return the steps of epoch `index`, counted from 0."""
        check("GradientNoise", "epoch", index, Interval(0, math.inf, "left", integer=True))
        normal = torch.randn(
            self.steps, self.batch_size, self.dimension, generator=generator("noise", self.seed, index)
        )
        noise = normal.mul_(math.sqrt(self.variance)).to(self.device)
        return zip(noise, torch.zeros(self.steps, self.batch_size, device=self.device), strict=True)


def _task(
    name: str,
    surface: Callable[[torch.Generator], Surface],
    options: Mapping[str, Any],
    *,
    epochs: int,
    target: float,
    description: str,
) -> Task:
    check_options(name, **options)
    device, steps, variance = options["device"], options["steps"], options.get("variance", 0.0)
    batch_size = options.get("batch_size", 1)

    def build(seed: int) -> Problem:
        check(name, "seed", seed, SEED)
        model = surface(generator("start", seed)).to(device)
        dimension = len(model.w)
        return Problem(
            model=model,
            train=GradientNoise(dimension, steps, variance, seed, device, batch_size),
            evaluation=Batches(torch.zeros(1, dimension, device=device), torch.zeros(1, device=device), batch_size=1),
            loss=lambda output, _: output.mean(),
        )

    config = {**options, "device": str(device)}
    if batch_size == 1:  # records of the default task have no such entry
        config.pop("batch_size", None)
    return Task(name, build, epochs, Target("loss", target, "min"), description, config)


def quadratic(*, dimension: int = 20, condition: float = 100.0, steps: int = 50, device: str = "cpu") -> Task:
    """Return a task that minimizes f(w) = 1/2 sum_i h_i w_i^2, with eigenvalues h from 1 / condition to 1.

    The initial w is standard normal. Gradient descent converges for lr < 2, and fastest for
    lr = 2 / (1 + 1 / condition).

    Args:
        dimension: Number of elements of w; >= 1.
        condition: Ratio of the largest to the smallest eigenvalue; >= 1. Eigenvalues are logarithmically spaced.
        steps: Number of steps per epoch; >= 1.
        device: Device of the model.

    Raises:
        ArgumentError: If an option is out of range.

    >>> quadratic(dimension=2, condition=4.0).build(seed=0).model.eigenvalues
    tensor([0.2500, 1.0000])
    """
    return _task(
        "quadratic",
        lambda g: Quadratic(torch.randn(dimension, generator=g), spectrum(dimension, condition)),
        {"dimension": dimension, "condition": condition, "steps": steps, "device": device},
        epochs=10,
        target=1e-3,
        description="a convex quadratic with a known spectrum and exact gradients",
    )


def noisy_quadratic(
    *,
    dimension: int = 20,
    condition: float = 100.0,
    variance: float = 0.01,
    steps: int = 50,
    device: str = "cpu",
    batch_size: int = 1,
) -> Task:
    """Return the `quadratic` task with independent normal gradient noise.

    Gradient descent with a constant lr reaches E[f] = variance * lr / (4 batch_size) * sum_i 1 / (1 - lr h_i / 2) in
    equilibrium. A smaller lr reaches a lower value of f, but takes more steps.

    Args:
        dimension: Number of elements of w; >= 1.
        condition: Ratio of the largest to the smallest eigenvalue; >= 1.
        variance: Variance of every element of the gradient of an example; >= 0.
        steps: Number of steps per epoch; >= 1.
        device: Device of the model.
        batch_size: Number of examples per step, whose gradients are averaged; >= 1.

    Raises:
        ArgumentError: If an option is out of range.

    >>> noise, _ = next(noisy_quadratic(dimension=3, variance=0.04).build(seed=0).train.epoch(0))
    >>> noise.shape
    torch.Size([1, 3])
    """
    return _task(
        "noisy-quadratic",
        lambda g: Quadratic(torch.randn(dimension, generator=g), spectrum(dimension, condition)),
        {
            "dimension": dimension,
            "condition": condition,
            "variance": variance,
            "steps": steps,
            "device": device,
            "batch_size": batch_size,
        },
        epochs=10,
        target=0.02,
        description="a convex quadratic with a known spectrum and normal gradient noise",
    )


def rosenbrock(*, steps: int = 50, device: str = "cpu") -> Task:
    """Return a task that minimizes Rosenbrock's function.

    The initial w is (-1.2, 1) plus normal noise with a standard deviation of 0.1.

    Args:
        steps: Number of steps per epoch; >= 1.
        device: Device of the model.

    Raises:
        ArgumentError: If an option is out of range.

    >>> rosenbrock().build(seed=0).model.w.shape
    torch.Size([2])
    """
    return _task(
        "rosenbrock",
        lambda g: Rosenbrock(torch.tensor([-1.2, 1.0]) + 0.1 * torch.randn(2, generator=g)),
        {"steps": steps, "device": device},
        epochs=40,
        target=0.1,
        description="Rosenbrock's curved valley in two dimensions, with exact gradients",
    )


def saddle(*, steps: int = 50, device: str = "cpu") -> Task:
    """Return a task that requires the optimizer to escape a saddle.

    The initial w is (1, 0) plus normal noise with a standard deviation of 0.01.

    Args:
        steps: Number of steps per epoch; >= 1.
        device: Device of the model.

    Raises:
        ArgumentError: If an option is out of range.

    >>> saddle().build(seed=0).model.w.shape
    torch.Size([2])
    """
    return _task(
        "saddle",
        lambda g: Saddle(torch.tensor([1.0, 0.0]) + 0.01 * torch.randn(2, generator=g)),
        {"steps": steps, "device": device},
        epochs=10,
        target=1e-3,
        description="a saddle between two minima in two dimensions, with exact gradients",
    )
