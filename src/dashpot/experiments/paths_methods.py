"""Methods of the experiment `paths`, and the search for their best rates."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from dashpot.experiments.simulation import descend, descend_rates
from dashpot.optimizers.momentum import QHM, HeavyBall
from dashpot.optimizers.torch_compatible import SGD, Adam, RMSprop
from dashpot.recipes.recipe import Recipe

Value = Callable[[Tensor], Tensor]

METHODS: Mapping[str, Recipe] = {
    "plain": SGD.recipe_for(),
    "momentum 0.5": QHM.recipe_for(pole=0.5, nu=1.0),
    "momentum 0.9": QHM.recipe_for(pole=0.9, nu=1.0),
    "RMSprop": RMSprop.recipe_for(),
    "Adam": Adam.recipe_for(),
}
"""Recipes of the methods; momentum is the average v = beta v + (1 - beta) g of the tutorial, with effective rate lr."""
HEAVY_BALL = HeavyBall.recipe_for(pole=0.9)
"""torch's momentum v = 0.9 v + g, with effective rate 10 lr."""


class Best(NamedTuple):
    """Best rate of a method, and the steps of each run at this rate."""

    lr: float
    steps: list[float]


def gradient_of(value: Value) -> Value:
    """Return the gradient of a function that maps rows to values."""

    def gradient(w: Tensor) -> Tensor:
        point = w.detach().requires_grad_()
        return torch.autograd.grad(value(point).sum(), point)[0]

    return gradient


def path_of(recipe: Recipe, lr: float, value: Value, start: Tensor, steps: int) -> Tensor:
    """Return the path of a method at one rate, of shape (steps + 1, runs, dimension)."""
    return descend(recipe.with_settings(lr=lr), start, gradient_of(value), steps)


def settling_steps(values: Tensor, target: float) -> Tensor:
    """Return the number of steps after which `values` stay below `target`, along the first dimension.

    >>> settling_steps(torch.tensor([[3.0, 3.0], [1.0, 3.0], [3.0, 3.0], [1.0, 3.0]]), 2.0)
    tensor([3., inf])
    """
    above = ~(values < target)  # True for NaN
    count = len(values)
    steps = torch.where(above.any(0), count - above.flip(0).int().argmax(0), 0).to(torch.get_default_dtype())
    return steps.masked_fill(steps >= count, math.inf)


def best_rate(recipe: Recipe, value: Value, start: Tensor, target: float, rates: Tensor, limit: int) -> Best:
    """Return the rate with the smallest mean number of settling steps.

    Args:
        recipe: Method.
        value: Function to minimize, from rows to values.
        start: Initial rows, one for each run.
        target: Value to fall below and stay below.
        rates: Learning rates.
        limit: Number of steps of a run; the steps are inf if no rate reaches the target in all runs.
    """
    path = descend_rates(recipe, rates.tolist(), start, gradient_of(value), limit)
    steps = settling_steps(value(path), target)
    best = int(steps.mean(-1).argmin())
    return Best(float(rates[best]), steps[best].tolist())
