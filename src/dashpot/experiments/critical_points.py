"""Minima and saddles among the critical points of random functions, against the dimension.

The functions are isotropic Gaussian random fields. Two computations are compared: an exact formula, evaluated by
sampling Hessians, and critical points found by Newton's method.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from dashpot.data.seeding import generator

EXTREMA_TO_SADDLES = (29 - 18 * math.sqrt(2 / 3)) / (29 + 18 * math.sqrt(2 / 3))
MINIMA = {1: 1 / 2, 2: 1 / 4, 3: EXTREMA_TO_SADDLES / (1 + EXTREMA_TO_SADDLES) / 2}
"""Exact share of minima among the critical points, by dimension.

Sources: Euler characteristic (1 and 2 dimensions); Bardeen, Bond, Kaiser and Szalay, The Astrophysical Journal 304
(1986) (3 dimensions).
"""
WAVES = 64
BOX = {1: 400.0, 2: 20.0, 3: 7.0}
"""Side of the searched box by dimension, in units of the correlation length."""


def minima_share(dimension: int, samples: int, seed: int) -> float:
    """Return the expected share of minima among the critical points of an isotropic Gaussian field.

    By the Kac-Rice formula, the density of critical points of a type is proportional to E[abs(det H); type]. The
    Hessian H of the field is x I + G, with a standard normal x and a symmetric Gaussian matrix G with variances 2 on
    and 1 off the diagonal. Minima and maxima are equally frequent by symmetry, and both are counted.

    Args:
        dimension: Dimension; >= 1.
        samples: Number of sampled Hessians.
        seed: Seed of the samples.
    """
    random = generator("Hessians", seed, dimension)
    shape = (samples, dimension, dimension)
    square = torch.randn(shape, dtype=torch.float64, generator=random)
    shift = torch.randn(samples, 1, dtype=torch.float64, generator=random)
    eigenvalues = torch.linalg.eigvalsh((square + square.mT) / math.sqrt(2)) + shift
    weights = eigenvalues.prod(-1).abs()
    extremum = (eigenvalues > 0).all(-1) | (eigenvalues < 0).all(-1)
    return float((weights * extremum).sum() / weights.sum() / 2)


class Found(NamedTuple):
    """Numbers of critical points found by Newton's method."""

    minima: int
    saddles: int
    maxima: int

    @property
    def share(self) -> float:
        """Share of minima; minima and maxima are averaged."""
        return (self.minima + self.maxima) / 2 / sum(self)


def find_critical_points(dimension: int, starts: int, seed: int) -> Found:
    """Return the critical points of a sum of random waves, f(x) = sum_j cos(k_j x + phase_j), in a box.

    Newton's method with steps of at most 0.3 runs from uniformly random starts; each point is counted once.

    Args:
        dimension: 1, 2 or 3.
        starts: Number of starts.
        seed: Seed of waves and starts.
    """
    random = generator("waves", seed, dimension)
    vectors = torch.randn(WAVES, dimension, dtype=torch.float64, generator=random)
    phases = 2 * math.pi * torch.rand(WAVES, dtype=torch.float64, generator=random)
    x = BOX[dimension] * torch.rand(starts, dimension, dtype=torch.float64, generator=random)
    for _ in range(40):
        gradient, hessian = _derivatives(x, vectors, phases)
        step = torch.linalg.solve_ex(hessian, gradient.unsqueeze(-1))[0].squeeze(-1)
        x = x - step * (0.3 / step.norm(dim=-1, keepdim=True).clamp(min=1e-300)).clamp(max=1)
    gradient, _ = _derivatives(x, vectors, phases)
    inside = ((x >= 0) & (x <= BOX[dimension])).all(-1)
    points = _distinct(x[inside & (gradient.norm(dim=-1) < 1e-8)])
    negative = (torch.linalg.eigvalsh(_derivatives(points, vectors, phases)[1]) < 0).sum(-1)
    minima, maxima = int((negative == 0).sum()), int((negative == dimension).sum())
    return Found(minima, len(points) - minima - maxima, maxima)


def _derivatives(x: Tensor, vectors: Tensor, phases: Tensor) -> tuple[Tensor, Tensor]:
    """Return gradients and Hessians of the sum of waves."""
    angles = x @ vectors.T + phases
    gradient = -angles.sin() @ vectors
    products = (vectors[:, :, None] * vectors[:, None, :]).flatten(1)
    hessian = -(angles.cos() @ products).unflatten(-1, vectors.shape[1:] * 2)
    return gradient, hessian


def _distinct(points: Tensor) -> Tensor:
    """Return points without repetitions; points closer than about 1e-4 are equal."""
    kept = torch.unique((points / 1e-4).round(), dim=0, return_inverse=True)[1]
    first = torch.full((int(kept.max()) + 1 if len(kept) else 0,), len(points)).scatter_reduce(
        0, kept, torch.arange(len(points)), "amin"
    )
    return points[first]
