"""Gradients along a training run on the digits: of batches, and of the loss of all images."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from dashpot.data import digits
from dashpot.data.seeding import generator
from dashpot.experiments.simulation import filtered
from dashpot.optimizers.momentum import QHM
from dashpot.stages import Filter

BATCH = 50
SIZES = (64, 32, 10)
"""Numbers of inputs, hidden units and classes of the network."""


class Gradients(NamedTuple):
    """Gradients at each step: of a random batch, and of all images; each of shape (steps, parameters)."""

    batch: Tensor
    full: Tensor


def record(seed: int, steps: int, *, images: int = 1500, pole: float = 0.9, lr: float = 0.2) -> Gradients:
    """Train a network with averaged momentum on batches drawn with replacement, and record the gradients.

    Args:
        seed: Seed of weights and batches.
        steps: Number of steps.
        images: Number of training images, the first ones of the data set.
        pole: Pole of the average.
        lr: Learning rate.
    """
    data = digits.load()
    x = torch.tensor(data.train_images[:images]).flatten(1).double().div(8).sub(1)
    y = torch.tensor(data.train_labels[:images]).long()
    random = generator("smoothing", seed)
    inputs, hidden, classes = SIZES
    normal = partial(torch.randn, dtype=torch.float64, generator=random)
    flat = torch.cat([normal(inputs * hidden) / inputs**0.5, normal(hidden * classes) / hidden**0.5])
    w = nn.Parameter(torch.cat([flat, torch.zeros(hidden + classes, dtype=torch.float64)]))
    optimizer = QHM([w], lr=lr, pole=pole, nu=1.0, engine="eager")
    batch, full = (torch.empty(steps, len(w), dtype=torch.float64) for _ in range(2))
    for step in range(steps):
        chosen = torch.randint(len(x), (BATCH,), generator=random)
        batch[step] = _gradient(w, x[chosen], y[chosen])
        full[step] = _gradient(w, x, y)
        w.grad = batch[step].clone()
        optimizer.step()
    return Gradients(batch, full)


def _gradient(w: Tensor, x: Tensor, y: Tensor) -> Tensor:
    inputs, hidden, classes = SIZES
    first, second, bias, out = w.split([inputs * hidden, hidden * classes, hidden, classes])
    units = torch.tanh(x @ first.view(inputs, hidden) + bias)
    loss = nn.functional.cross_entropy(units @ second.view(hidden, classes) + out, y)
    return torch.autograd.grad(loss, w)[0]


class Similarity(NamedTuple):
    """Comparison of filtered gradients of batches with gradients of all images.

    Attributes:
        path: Mean cosine with the gradient of the loss averaged over the path, which is the filtered full gradient.
        point: Mean cosine with the gradient of the loss at the current point.
        noise: Variance of the filtered noise per variance of the noise.
    """

    path: float
    point: float
    noise: float


def similarity(gradients: Gradients, beta: float, skipped: int) -> Similarity:
    """Compare filtered batch gradients with gradients of all images.

    The noise is the difference of the gradients of the batch and of all images. The ratio of variances is the sum of
    |(h * n)_t|^2 over the steps, divided by that of sum_k h_k^2 |n_{t-k}|^2 and multiplied by sum_k h_k^2.

    Args:
        gradients: Recorded gradients.
        beta: Pole of the filter; 0 for the plain gradient.
        skipped: Number of omitted initial steps.
    """
    average = Filter(pole=beta, normalise="none")
    direction, over_path = filtered(average, gradients.batch), filtered(average, gradients.full)
    noise = (gradients.batch - gradients.full).square().sum(1)
    independent = filtered(Filter(pole=beta**2, normalise="none"), noise)
    ratio = (direction - over_path).square().sum(1)[skipped:].sum() / independent[skipped:].sum()
    path, point = (
        float(torch.cosine_similarity(direction, other, dim=1)[skipped:].mean())
        for other in (over_path, gradients.full)
    )
    return Similarity(path, point, float(ratio))
