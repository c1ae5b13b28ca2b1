"""Simulations with the library's filters and optimizers on tensors of independent runs."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from dashpot import functional
from dashpot.recipes.recipe import Recipe
from dashpot.stages import Filter

MakeOptimizer = Callable[[list[nn.Parameter]], torch.optim.Optimizer]


def filtered(stage: Filter, inputs: Tensor) -> Tensor:
    """Return the outputs of a filter for `inputs`, whose first dimension is time, from the steps of an optimizer.

    With lr = 1, the output at a step is the difference of the parameters before and after the step.

    >>> filtered(Filter(pole=0.5, normalise="none"), torch.ones(3, dtype=torch.float64))
    tensor([0.5000, 0.7500, 0.8750], dtype=torch.float64)
    """
    recipe, zero = Recipe(stage, lr=1.0), torch.zeros_like(inputs[0])
    state = functional.init(recipe, zero)
    outputs = torch.empty_like(inputs)
    for step, value in enumerate(inputs):
        new, state = functional.update(recipe, zero, value, state, step)
        outputs[step] = -new
    return outputs


def descend(make: MakeOptimizer, start: Tensor, gradient: Callable[[Tensor], Tensor], steps: int) -> Tensor:
    """Return the path of an optimizer, a tensor of shape (steps + 1, *start.shape).

    The elements of `start` are independent runs of an elementwise method.

    Args:
        make: Function from a list of parameters to their optimizer.
        start: Initial parameters.
        gradient: Function from parameters to their gradient.
        steps: Number of steps.
    """
    point = nn.Parameter(start.clone())
    optimizer = make([point])
    path = torch.empty(steps + 1, *start.shape, dtype=start.dtype)
    path[0] = start
    for step in range(1, steps + 1):
        point.grad = gradient(point.detach())
        optimizer.step()
        path[step] = point.detach()
    return path
