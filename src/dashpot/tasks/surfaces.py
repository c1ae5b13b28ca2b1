"""Loss surfaces with a known minimum, as modules whose only parameter is the point `w`."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

__all__ = ["Quadratic", "Rosenbrock", "Saddle", "Surface", "spectrum"]


class Surface(nn.Module, ABC):
    """A function f of the point `w`, with a slope of noise added for every row of the input.

    `forward(noise)` maps noise of shape (batch, dimension) to f(w) + noise @ w, shape (batch,). The mean of that over
    the batch has the gradient f'(w) + mean(noise): the noise is the error of the gradient. With zero noise the value is
    f(w) itself. The minimum of every surface here is 0.
    """

    def __init__(self, start: Tensor) -> None:
        super().__init__()
        self.w = nn.Parameter(start.clone())

    @abstractmethod
    def value(self) -> Tensor:
        """f(w), a 0-d tensor."""

    def forward(self, noise: Tensor) -> Tensor:
        """f(w) + noise @ w for every row of `noise`."""
        return self.value() + noise @ self.w


def spectrum(dimension: int, condition: float) -> Tensor:
    """Eigenvalues from 1 / condition to 1, equally spaced in the logarithm; the single one is 1.

    >>> spectrum(3, 100.0)
    tensor([0.0100, 0.1000, 1.0000])
    """
    return torch.logspace(-math.log10(condition), 0, dimension) if dimension > 1 else torch.ones(1)


class Quadratic(Surface):
    """f(w) = 1/2 sum_i eigenvalues_i w_i^2, least at w = 0.

    >>> Quadratic(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 0.5])).value().item()
    1.5
    """

    eigenvalues: Tensor

    def __init__(self, start: Tensor, eigenvalues: Tensor) -> None:
        super().__init__(start)
        self.register_buffer("eigenvalues", eigenvalues)

    def value(self) -> Tensor:
        """f(w), a 0-d tensor."""
        return (self.eigenvalues * self.w**2).sum() / 2


class Rosenbrock(Surface):
    """f(a, b) = (1 - a)^2 + 100 (b - a^2)^2, least at (1, 1): a curved valley, flat along its floor.

    Source: H. H. Rosenbrock, "An automatic method for finding the greatest or least value of a function", The Computer
    Journal 3 (1960).

    >>> Rosenbrock(torch.tensor([-1.0, 1.0])).value().item()
    4.0
    """

    def value(self) -> Tensor:
        """f(w), a 0-d tensor."""
        a, b = self.w
        return (1 - a) ** 2 + 100 * (b - a**2) ** 2


class Saddle(Surface):
    """f(a, b) = a^2 / 2 + (b^2 - 1)^2 / 4: a saddle at (0, 0), where f = 1/4, between the minima (0, 1) and (0, -1).

    At the saddle the curvature is +1 along a and -1 along b; at the minima it is +1 and +2.

    >>> Saddle(torch.tensor([1.0, 0.0])).value().item()
    0.75
    """

    def value(self) -> Tensor:
        """f(w), a 0-d tensor."""
        a, b = self.w
        return a**2 / 2 + (b**2 - 1) ** 2 / 4
