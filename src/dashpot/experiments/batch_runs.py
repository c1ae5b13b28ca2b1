"""Training of stacked networks that see the same examples in the same order in batches of different sizes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from dashpot.curvature import eigenvalues, hessian
from dashpot.data.seeding import generator
from dashpot.experiments.image_vectors import ImageVectors
from dashpot.experiments.stacked_network import StackedNetwork, index_batches, losses
from dashpot.optimizers.base import Optimizer

HIDDEN = 64
LARGEST = 1024
"""Largest batch; the number of training examples is a multiple of it, so that an epoch has no incomplete batch."""
_MEASURED = 10_000  # training examples of the reported loss


class Phase(NamedTuple):
    """Epochs with a batch size and a factor on the learning rate."""

    epochs: int
    batch: int
    factor: float = 1.0


@dataclass(frozen=True)
class BatchRun:
    """Training losses of networks, one for each seed.

    Args:
        examples: Numbers of examples seen at which the loss was measured; the first is 0.
        losses: Tensor (seeds, times) of mean cross-entropies over a fixed set of training examples.
        weights: For each time, the parameters of all networks; empty unless requested.
    """

    examples: list[int]
    losses: Tensor
    weights: list[list[Tensor]] = field(default_factory=list)

    @property
    def final(self) -> Tensor:
        """Losses after all examples; the loss of the initial network for a diverged run."""
        return torch.where(self.losses[:, -1].isfinite(), self.losses[:, -1], self.losses[:, 0])


def train(
    seeds: Sequence[int],
    data: ImageVectors,
    create: Callable[[list[Tensor]], Optimizer],
    phases: Sequence[Phase],
    *,
    keep: bool = False,
) -> BatchRun:
    """Train one network for each seed, on the same examples in the same order for every batch size.

    Args:
        seeds: Seeds of the initial weights and of the order of the examples, new in every epoch.
        data: Images; the last ones are omitted, for a multiple of `LARGEST` training examples.
        create: Function that creates the optimizer from the list of parameters.
        phases: Epochs with their batch sizes, powers of two up to `LARGEST`, and factors on the learning rate.
        keep: Whether to keep the weights at every measurement.

    Returns:
        Losses at equal numbers of examples for every batch size.
    """
    inputs, labels = data.train
    count = len(labels) - len(labels) % LARGEST
    model = StackedNetwork((data.features, HIDDEN, 10), seeds)
    parameters: list[Tensor] = list(model.parameters())
    optimizer = create(parameters)
    rates = [group["lr"] for group in optimizer.param_groups]
    points = measured_at(count, sum(phase.epochs for phase in phases))
    times: list[int] = []
    values: list[Tensor] = []
    weights: list[list[Tensor]] = []

    def measure(seen: int) -> None:
        times.append(seen)
        values.append(training_loss(model, data))
        if keep:
            weights.append([parameter.detach().clone() for parameter in parameters])

    measure(0)
    seen = 0
    generators = [generator("batch-invariance", seed) for seed in seeds]
    for phase in phases:
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * phase.factor
        for _ in range(phase.epochs):
            for index in index_batches(generators, count, phase.batch):
                optimizer.zero_grad()
                losses(model, inputs[index], labels[index]).sum().backward()
                optimizer.step()
                seen += phase.batch
                if seen in points:
                    measure(seen)
    return BatchRun(times, torch.stack(values, 1), weights)


def measured_at(count: int, epochs: int) -> set[int]:
    """Return the numbers of examples at which losses are measured: multiples of `LARGEST`, up to all epochs.

    >>> sorted(measured_at(8 * 1024, 2))
    [4096, 8192, 12288, 16384]
    """
    blocks = count // LARGEST
    early = {4, 16} if blocks > 16 else set()
    half = max(1, blocks // 2)
    later = {epoch * blocks + part for epoch in range(epochs) for part in (half, blocks)}
    return {LARGEST * block for block in early | later}


@torch.no_grad()
def training_loss(model: StackedNetwork, data: ImageVectors) -> Tensor:
    """Return the mean cross-entropy of each network over the first 10 000 training examples, as float64."""
    return losses(model, *_measured(data)).double()


def _measured(data: ImageVectors) -> tuple[Tensor, Tensor]:
    inputs, labels = data.train
    return inputs[None, :_MEASURED], labels[None, :_MEASURED]


def largest_curvatures(run: BatchRun, data: ImageVectors, times: Sequence[int]) -> list[float]:
    """Return for each seed the largest eigenvalue of the Hessian of the training loss at several times.

    Args:
        run: Run with weights.
        data: Images of the run.
        times: Indices of the measurements of the run.

    Returns:
        Maximum over the times, one value per seed.
    """
    inputs, labels = _measured(data)
    found = []
    for row in range(len(run.losses)):
        largest = -math.inf
        for time in times:
            model = StackedNetwork((data.features, HIDDEN, 10), [0])
            parameters = list(model.parameters())
            with torch.no_grad():
                for parameter, weight in zip(parameters, run.weights[time], strict=True):
                    parameter.copy_(weight[row : row + 1])
            with hessian(lambda model=model: losses(model, inputs, labels).sum(), parameters) as operator:
                largest = max(largest, eigenvalues(operator, tolerance=0.02).values[0])
        found.append(largest)
    return found
