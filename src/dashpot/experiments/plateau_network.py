"""Deep networks with small initial weights, whose loss stays on a plateau at first."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from dashpot import functional
from dashpot.experiments.stacked_network import StackedNetwork, batches, losses
from dashpot.recipes.recipe import Recipe

WIDTHS = (64, 16, 16, 16, 10)
SCALES = {"short": 0.4, "long": 0.2}
"""Standard deviation of the initial weights relative to 1/sqrt(inputs), for a short and a long plateau."""
BATCH = 25
LEVEL = 0.85 * math.log(10)
"""A run has left the plateau at the loss log(10) when the mean loss of `WINDOW` batches falls below this level."""
WINDOW = 10


def small_networks(seeds: Sequence[Any], scale: float) -> StackedNetwork:
    """Return networks with small weights, one for each seed."""
    model = StackedNetwork(WIDTHS, seeds)
    with torch.no_grad():
        for weight in model.weights:
            weight.mul_(scale)
    return model


def escape_steps(recipe: Recipe, rates: Sequence[float], seeds: Sequence[int], limit: int, scale: float) -> Tensor:
    """Return the number of steps to leave the plateau, of shape (rates, seeds).

    The result is inf if a run does not leave the plateau within `limit` steps, or if its loss is above the level at the
    end.

    Args:
        recipe: Method without schedules.
        rates: Learning rates.
        seeds: One seed for each network at a rate.
        limit: Number of steps after which the runs end.
        scale: Scale of the initial weights.
    """
    model = small_networks(list(seeds) * len(rates), scale)
    params = list(model.parameters())
    lr = torch.tensor(rates, dtype=torch.float64).repeat_interleave(len(seeds))
    state: Any = torch.func.vmap(partial(functional.init, recipe))([p.detach() for p in params])

    def one(lr: Tensor, params: Any, grads: Any, state: Any, step: int) -> Any:
        return functional.update(recipe.with_settings(lr=lr), params, grads, state, step)

    advance = torch.func.vmap(one, in_dims=(0, 0, 0, 0, None))
    source = batches(seeds, BATCH)
    recent = torch.full((WINDOW, len(lr)), math.log(10))
    escaped = torch.full((len(lr),), math.inf, dtype=torch.float64)
    for step in range(limit):
        x, y = (part.repeat(len(rates), *[1] * (part.dim() - 1)) for part in next(source))
        values = losses(model, x, y)
        recent[step % WINDOW] = values.detach()
        left = recent.mean(0) < LEVEL
        escaped = torch.where(left & escaped.isinf(), step, escaped)
        if not escaped.isinf().any():
            break
        grads = torch.autograd.grad(values.sum(), params)
        new, state = advance(lr, [p.detach() for p in params], list(grads), state, step)
        with torch.no_grad():
            for p, value in zip(params, new, strict=True):
                p.copy_(value)
    escaped = torch.where(recent.mean(0) < LEVEL, escaped, math.inf)
    return escaped.view(len(rates), len(seeds))
