"""Loss surfaces with a known minimum, as modules whose only parameter is the point `w`."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn


class Surface(nn.Module, ABC):
    """A function f of the point `w`, with gradient noise.

    `forward(noise)` maps noise of shape (batch, dimension) to f(w) + noise @ w of shape (batch,). The mean of the
    result over the batch has the gradient f'(w) + mean(noise). The minimum value of every surface in this module is 0.

    Args:
        start: Initial value of `w`.
    """

    def __init__(self, start: Tensor) -> None:
        super().__init__()
        self.w = nn.Parameter(start.clone())

    @abstractmethod
    def value(self) -> Tensor:
        """Return f(w), a 0-d tensor."""

    def forward(self, noise: Tensor) -> Tensor:
        """Return f(w) + noise @ w for every row of `noise`."""
        return self.value() + noise @ self.w


def spectrum(dimension: int, condition: float) -> Tensor:
    """Return logarithmically spaced eigenvalues from 1 / condition to 1, or [1] in one dimension.

    >>> spectrum(3, 100.0)
    tensor([0.0100, 0.1000, 1.0000])
    """
    return torch.logspace(-math.log10(condition), 0, dimension) if dimension > 1 else torch.ones(1)


def quadratic(w: Tensor, eigenvalues: Tensor) -> Tensor:
    """Return 1/2 sum_i eigenvalues_i w_i^2 for each row of `w`; the sum is over the last dimension."""
    return (eigenvalues * w**2).sum(-1) / 2


def rosenbrock(w: Tensor) -> Tensor:
    """Return (1 - a)^2 + 100 (b - a^2)^2 for each row (a, b) of `w`."""
    a, b = w.unbind(-1)
    return (1 - a) ** 2 + 100 * (b - a**2) ** 2


def saddle(w: Tensor) -> Tensor:
    """Return a^2 / 2 + (b^2 - 1)^2 / 4 for each row (a, b) of `w`."""
    a, b = w.unbind(-1)
    return a**2 / 2 + (b**2 - 1) ** 2 / 4


class Quadratic(Surface):
    """f(w) = 1/2 sum_i eigenvalues_i w_i^2, with its minimum at w = 0.

    >>> Quadratic(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 0.5])).value().item()
    1.5
    """

    eigenvalues: Tensor

    def __init__(self, start: Tensor, eigenvalues: Tensor) -> None:
        super().__init__(start)
        self.register_buffer("eigenvalues", eigenvalues)

    def value(self) -> Tensor:
        return quadratic(self.w, self.eigenvalues)


class Rosenbrock(Surface):
    """f(a, b) = (1 - a)^2 + 100 (b - a^2)^2, a curved valley with its minimum at (1, 1).

    Source: H. H. Rosenbrock, "An automatic method for finding the greatest or least value of a function", The Computer
    Journal 3 (1960).

    >>> Rosenbrock(torch.tensor([-1.0, 1.0])).value().item()
    4.0
    """

    def value(self) -> Tensor:
        return rosenbrock(self.w)


class Saddle(Surface):
    """f(a, b) = a^2 / 2 + (b^2 - 1)^2 / 4, with a saddle at (0, 0), where f = 1/4, and minima at (0, 1) and (0, -1).

    The second derivatives are 1 along a and -1 along b at the saddle, and 1 and 2 at the minima.

    >>> Saddle(torch.tensor([1.0, 0.0])).value().item()
    0.75
    """

    def value(self) -> Tensor:
        return saddle(self.w)
