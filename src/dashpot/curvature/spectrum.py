"""Eigenvalues, trace and spectral density of a Hessian from a few products."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dashpot.constraints import POSITIVE, Interval, check
from dashpot.curvature.lanczos import LanczosProcess, Ritz
from dashpot.utils.student import t_quantile

_COUNT, _SAMPLES = Interval(1, closed="left", integer=True), Interval(2, closed="left", integer=True)
_FRESH = 0.1
"""Norm of the random part of a warm start, relative to the known vectors: it contains directions that they miss."""


class Eigenvalues(NamedTuple):
    """Result of `eigenvalues`.

    Attributes:
        values: Largest eigenvalues, in descending order.
        residuals: Norms |A y - value y|: an eigenvalue of A lies within this distance of each value.
        lowest: Smallest Ritz value, an upper bound of the smallest eigenvalue.
        lowest_residual: Its residual.
        vectors: Vectors y of norm 1 of the values, as rows.
        iterations: Number of products.
        converged: Whether all residuals are at most `tolerance` times the largest value.
    """

    values: tuple[float, ...]
    residuals: tuple[float, ...]
    lowest: float
    lowest_residual: float
    vectors: Tensor
    iterations: int
    converged: bool


class Trace(NamedTuple):
    """Result of `trace`: the estimate, its 95 % interval, and the number of products."""

    value: float
    low: float
    high: float
    samples: int


@dataclass(frozen=True)
class SpectralDensity:
    """Result of `spectral_density`: a distribution of eigenvalues as points with weights.

    Attributes:
        values: Ritz values of all samples.
        weights: Their weights; the sum is 1.
        size: Number of eigenvalues.
        samples: Number of random start vectors.
    """

    values: tuple[float, ...]
    weights: tuple[float, ...]
    size: int
    samples: int

    def share_below(self, bound: float) -> float:
        """Return the estimated share of eigenvalues below a bound."""
        return sum(weight for value, weight in zip(self.values, self.weights, strict=True) if value < bound)

    def at(self, points: Sequence[float], width: float) -> list[float]:
        """Return the density at points, smoothed by a normal distribution of standard deviation `width`."""
        check("SpectralDensity", "width", width, POSITIVE)
        z = (
            torch.tensor(points, dtype=torch.float64)[:, None] - torch.tensor(self.values, dtype=torch.float64)
        ) / width
        bumps = torch.exp(-z.square() / 2) / (width * math.sqrt(2 * math.pi))
        return (bumps @ torch.tensor(self.weights, dtype=torch.float64)).tolist()


def eigenvalues(
    operator: Any,
    count: int = 1,
    *,
    tolerance: float = 0.01,
    iterations: int = 60,
    start: Tensor | None = None,
    seed: int = 0,
) -> Eigenvalues:
    """Compute the largest eigenvalues of a Hessian by the Lanczos process with full reorthogonalization.

    The process stops when the residuals of the `count` largest Ritz values are at most `tolerance` times the largest
    magnitude. The error of a value is at most its residual r, and about r^2 over the distance to the next eigenvalue.
    Multiple eigenvalues appear once.

    Args:
        operator: Operator from `hessian`.
        count: Number of eigenvalues, >= 1.
        tolerance: Largest relative residual; > 0.
        iterations: Largest number of products, >= 1.
        start: Rows of earlier `vectors` as a warm start, or None for a random start.
        seed: Seed of the random numbers.

    Returns:
        Values, residuals and vectors, at most `count`.

    Raises:
        ArgumentError: If an argument is out of range.
        CurvatureError: If a product cannot be computed.

    Source: Parlett, The Symmetric Eigenvalue Problem (1998), chapter 13.

    Example:
        >>> from dashpot.curvature import hessian
        >>> w = torch.tensor([1.0, 1.0, 1.0], requires_grad=True)
        >>> with hessian(lambda: (w**2 * torch.tensor([1.0, 2.0, 3.0])).sum(), [w]) as h:
        ...     [round(value, 6) for value in eigenvalues(h, 2).values]
        [6.0, 4.0]
    """
    check("eigenvalues", "count", count, _COUNT)
    check("eigenvalues", "tolerance", tolerance, POSITIVE)
    check("eigenvalues", "iterations", iterations, _COUNT)
    process = LanczosProcess(operator, _start(operator, start, seed))
    ritz, converged = None, False
    for _ in range(iterations):
        process.advance()
        ritz = process.ritz()
        converged = process.exhausted or _is_converged(ritz, count, tolerance)
        if converged:
            break
    assert ritz is not None
    return _eigenvalues(process, ritz, count, converged)


def _is_converged(ritz: Ritz, count: int, tolerance: float) -> bool:
    largest = float(ritz.values.abs().max())
    return len(ritz.values) > count and bool((ritz.residuals[-count:] <= tolerance * largest).all())


def _eigenvalues(process: LanczosProcess, ritz: Ritz, count: int, converged: bool) -> Eigenvalues:
    top = range(len(ritz.values) - 1, max(len(ritz.values) - 1 - count, -1), -1)
    return Eigenvalues(
        tuple(float(ritz.values[i]) for i in top),
        tuple(float(ritz.residuals[i]) for i in top),
        float(ritz.values[0]),
        float(ritz.residuals[0]),
        torch.stack([process.vector(ritz.components[:, i]) for i in top]),
        len(ritz.values),
        converged,
    )


def _start(operator: Any, known: Tensor | None, seed: int) -> Tensor:
    random = _random(operator, seed, 0, gaussian=True)
    if known is None:
        return random
    total = known.to(operator.device, operator.dtype).sum(0)
    return total / total.norm() + _FRESH * random / random.norm()


def _random(operator: Any, seed: int, number: int, *, gaussian: bool = False) -> Tensor:
    """Return random vector `number`: normal, or of entries 1 and -1; torch's global generators are not used."""
    generator = torch.Generator().manual_seed((seed << 20) + number)
    if gaussian:
        drawn = torch.randn(operator.size, generator=generator, dtype=operator.dtype)
    else:
        drawn = torch.randint(2, (operator.size,), generator=generator, dtype=torch.int8) * 2 - 1
    return drawn.to(operator.device, operator.dtype)


def trace(operator: Any, samples: int = 30, *, seed: int = 0) -> Trace:
    """Estimate the trace of a Hessian by Hutchinson's estimator, with a 95 % interval.

    The estimate is the mean of z'Hz over vectors z of independent random signs; its variance per sample is
    2 (|H|_F^2 - |diag H|^2). The interval uses Student's distribution over the samples.

    Args:
        operator: Operator from `hessian`.
        samples: Number of products, >= 2.
        seed: Seed of the random signs.

    Returns:
        The estimate and its interval.

    Raises:
        ArgumentError: If `samples` is out of range.
        CurvatureError: If a product cannot be computed.

    Source: Hutchinson, A stochastic estimator of the trace (1989).

    Example:
        >>> from dashpot.curvature import hessian
        >>> w = torch.tensor([1.0, 1.0, 1.0], requires_grad=True)
        >>> with hessian(lambda: (w**2 * torch.tensor([1.0, 2.0, 3.0])).sum(), [w]) as h:
        ...     trace(h, samples=3).value
        12.0
    """
    check("trace", "samples", samples, _SAMPLES)
    found = torch.empty(samples, dtype=torch.float64)
    for i in range(samples):
        z = _random(operator, seed, i)
        found[i] = torch.dot(z, operator(z)).double()
    mean, half = float(found.mean()), t_quantile(samples - 1) * float(found.std()) / math.sqrt(samples)
    return Trace(mean, mean - half, mean + half, samples)


def spectral_density(operator: Any, *, samples: int = 4, iterations: int = 40, seed: int = 0) -> SpectralDensity:
    """Estimate the distribution of the eigenvalues of a Hessian by stochastic Lanczos quadrature.

    For a random start vector, the Ritz values with the squared first components of their eigenvectors are the Gauss
    quadrature of the spectral measure of the vector, exact for polynomials of degree 2 iterations - 1. The mean over
    start vectors estimates the distribution of all eigenvalues.

    Args:
        operator: Operator from `hessian`.
        samples: Number of start vectors, >= 2.
        iterations: Largest number of products per start vector, >= 1.
        seed: Seed of the start vectors.

    Returns:
        Points and weights.

    Raises:
        ArgumentError: If an argument is out of range.
        CurvatureError: If a product cannot be computed.

    Source: Ubaru, Chen and Saad, Fast estimation of tr(f(A)) via stochastic Lanczos quadrature (2017).

    Example:
        >>> from dashpot.curvature import hessian
        >>> w = torch.tensor([1.0, 1.0, 1.0, 1.0], requires_grad=True)
        >>> with hessian(lambda: (w**2 * torch.tensor([1.0, 1.0, 1.0, 3.0])).sum(), [w]) as h:
        ...     round(spectral_density(h).share_below(4), 6)
        0.75
    """
    check("spectral_density", "samples", samples, _SAMPLES)
    check("spectral_density", "iterations", iterations, _COUNT)
    values: list[float] = []
    weights: list[float] = []
    for i in range(samples):
        process = LanczosProcess(operator, _random(operator, seed, i))
        while len(process.alphas) < iterations and not process.exhausted:
            process.advance()
        ritz = process.ritz()
        values += ritz.values.tolist()
        weights += (ritz.weights / samples).tolist()
    return SpectralDensity(tuple(values), tuple(weights), operator.size, samples)
