"""Simulations with the library's filters and optimizers on tensors of independent runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from dashpot import functional
from dashpot.recipes.recipe import Recipe
from dashpot.stages import Filter


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


def descend(recipe: Recipe, start: Tensor, gradient: Callable[[Tensor], Tensor], steps: int) -> Tensor:
    """Return the path of a method, of shape (steps + 1, *start.shape).

    The elements of `start` are independent runs of an elementwise method. The steps are those of the optimizer of the
    recipe.

    Args:
        recipe: Method with its learning rate.
        start: Initial parameters.
        gradient: Function from parameters to their gradients.
        steps: Number of steps.

    >>> from dashpot.optimizers.torch_compatible import SGD
    >>> descend(SGD.recipe_for(lr=0.5), torch.ones(2), lambda w: w, steps=2)[:, 0]
    tensor([1.0000, 0.5000, 0.2500])
    """
    point, state = start, functional.init(recipe, start)
    path = torch.empty(steps + 1, *start.shape, dtype=start.dtype)
    path[0] = point
    for step in range(steps):
        point, state = functional.update(recipe, point, gradient(point), state, step)
        path[step + 1] = point
    return path


def descend_rates(
    recipe: Recipe, rates: Sequence[float], start: Tensor, gradient: Callable[[Tensor], Tensor], steps: int
) -> Tensor:
    """Return the paths of a method at several learning rates, of shape (steps + 1, rates, *start.shape).

    Args:
        recipe: Method without schedules.
        rates: Learning rates.
        start: Initial parameters, as in `descend`.
        gradient: Function from parameters of shape (rates, *start.shape) to their gradients.
        steps: Number of steps.

    >>> from dashpot.optimizers.torch_compatible import SGD
    >>> descend_rates(SGD.recipe_for(), [0.5, 1.0], torch.ones(1), lambda w: w, steps=1).squeeze(-1)
    tensor([[1.0000, 1.0000],
            [0.5000, 0.0000]])
    """
    lr = torch.tensor(rates, dtype=torch.float64)
    point = start.expand(len(rates), *start.shape).clone()
    state = torch.func.vmap(partial(functional.init, recipe))(point)
    path = torch.empty(steps + 1, *point.shape, dtype=start.dtype)
    path[0] = point

    def one(lr: Tensor, w: Tensor, grad: Tensor, state: Any, step: int) -> Any:
        return functional.update(recipe.with_settings(lr=lr), w, grad, state, step)

    advance = torch.func.vmap(one, in_dims=(0, 0, 0, 0, None))
    for step in range(steps):
        point, state = advance(lr, point, gradient(point), state, step)
        path[step + 1] = point
    return path
