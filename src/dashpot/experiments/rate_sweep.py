"""Networks on the digits at many learning rates and seeds in one tensor, trained by any elementwise recipe."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dashpot import functional
from dashpot.curvature.hvp_options import Probing
from dashpot.data.seeding import generator
from dashpot.experiments.stacked_network import StackedNetwork, accuracies, batches, digit_vectors, losses
from dashpot.recipes.recipe import Recipe

WIDTHS = (64, 32, 10)
BATCH = 50


@dataclass(frozen=True)
class Sweep:
    """Results of one method; tensors have the shape (rates, seeds).

    Args:
        rates: Learning rates, increasing.
        loss: Final training loss over all training digits; inf if it is not finite.
        accuracy: Final accuracy on the evaluation digits.
        applied: Rate of the last step relative to the learning rate, with the numerator and the warm-up; the mean over
            the parameter tensors.
    """

    rates: tuple[float, ...]
    loss: Tensor
    accuracy: Tensor
    applied: Tensor

    def best(self) -> int:
        """Return the index of the rate with the smallest mean logarithm of the loss."""
        return int(self.loss.clamp(1e-12, 1e3).log().mean(1).argmin())


def sweep(
    recipe: Recipe,
    rates: Sequence[float],
    seeds: Sequence[int],
    steps: int,
    *,
    factor: Callable[[int], float] | None = None,
    probing: Probing | None = None,
) -> Sweep:
    """Train one 64-32-10 network for each rate and seed on batches of 50 digits.

    Networks with the same seed have the same initial weights, batches and probes. Every network has its own optimizer
    state, so that a numerator is the mean over the tensors of one network.

    Args:
        recipe: Method without schedules.
        rates: Learning rates, increasing.
        seeds: One seed for each network at a rate.
        steps: Number of steps.
        factor: Factor of the learning rate at each step, from 0; None keeps it constant.
        probing: Schedule of Hessian-vector products, for recipes with a curvature stage.
    """
    inputs, labels, eval_inputs, eval_labels = digit_vectors()
    model = StackedNetwork(WIDTHS, list(seeds) * len(rates))
    lr = torch.tensor(rates, dtype=torch.float64).repeat_interleave(len(seeds))
    params = list(model.parameters())
    state: Any = torch.func.vmap(partial(functional.init, recipe))([p.detach() for p in params])
    source, draws = batches(seeds, BATCH), [generator("probes", seed) for seed in seeds]
    advance = torch.func.vmap(partial(_update, recipe), in_dims=(0, 0, 0, 0, None))
    last = None
    for step in range(steps):
        x, y = (part.repeat(len(rates), *[1] * (part.dim() - 1)) for part in next(source))
        products = probing is not None and probing.due(step, last)
        grads = torch.autograd.grad(losses(model, x, y).sum(), params, create_graph=products)
        if products:
            last, state = step, _observed(recipe, params, grads, state, step, draws)
        now = lr * (1.0 if factor is None else factor(step))
        new, state = advance(now, [p.detach() for p in params], [g.detach() for g in grads], state, step)
        with torch.no_grad():
            for p, value in zip(params, new, strict=True):
                p.copy_(value)
    shape = len(rates), len(seeds)
    with torch.no_grad():
        final = losses(model, inputs[None], labels[None]).double().nan_to_num(nan=math.inf)
        accuracy = accuracies(model(eval_inputs[None]), eval_labels)
    applied = _applied(state, lr) * (1.0 if factor is None else factor(steps - 1))
    return Sweep(tuple(rates), final.view(shape), accuracy.view(shape), applied.view(shape))


def _update(recipe: Recipe, lr: Tensor, params: Any, grads: Any, state: Any, step: int) -> Any:
    return functional.update(recipe.with_settings(lr=lr), params, grads, state, step)


def _observed(
    recipe: Recipe,
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    state: Any,
    step: int,
    draws: Sequence[torch.Generator],
) -> Any:
    """Return the state after a Hessian-vector product with random signs, equal for all networks of a seed."""
    copies = len(params[0]) // len(draws)
    probes = [torch.stack([_signs(p.shape[1:], draw) for draw in draws]).repeat(copies, 1, 1) for p in params]
    products = torch.autograd.grad(grads, params, probes)
    return torch.func.vmap(partial(functional.observe, recipe), in_dims=(0, 0, 0, None))(state, probes, products, step)


def _signs(shape: Sequence[int], draw: torch.Generator) -> Tensor:
    return torch.randint(2, tuple(shape), generator=draw).float() * 2 - 1


def _applied(state: Sequence[Any], lr: Tensor) -> Tensor:
    """Return the numerator over the learning rate, 1 for methods without a numerator; the mean over the tensors."""
    rates = [slots["rate"].reshape(len(lr), -1).mean(1).double() / lr for slots in state if "rate" in slots]
    return torch.stack(rates).mean(0) if rates else torch.ones_like(lr)


class Usable(NamedTuple):
    """Largest usable learning rate for each seed, and the rate of the last step at this learning rate."""

    rates: list[float]
    applied: list[float]


def usable_rates(found: Sweep, level: float) -> Usable:
    """Return the largest learning rate with a final loss of at most `level`, for each seed.

    Between two neighbouring rates of the grid, the logarithm of the loss is interpolated linearly in the logarithm of
    the rate; losses above 1000 count as 1000. The result is the smallest rate of the grid if none is usable, and the
    largest if it is usable.

    >>> loss, ones = torch.tensor([[0.01], [1.0]]), torch.ones(2, 1)
    >>> usable_rates(Sweep((1.0, 4.0), loss, ones, ones), 0.1).rates
    [2.0]
    """
    logs = (found.loss.clamp(1e-12, 1e3) / level).log()
    points = [_crossing(row) for row in logs.T.tolist()]
    log_rates = [math.log(rate) for rate in found.rates]
    rates = [math.exp(_between(log_rates, point)) for point in points]
    applied = found.applied.T.clamp_min(1e-12).log().tolist()
    shares = [math.exp(_between(row, point)) for row, point in zip(applied, points, strict=True)]
    return Usable(rates, [rate * share for rate, share in zip(rates, shares, strict=True)])


def _crossing(values: Sequence[float]) -> float:
    """Return the position, between indices, at which the values last become positive."""
    inside = [k for k, value in enumerate(values) if value <= 0]
    k = inside[-1] if inside else 0
    if not inside or k + 1 == len(values):
        return float(k)
    return k - values[k] / (values[k + 1] - values[k])


def _between(values: Sequence[float], point: float) -> float:
    """Interpolate linearly between the values at neighbouring indices."""
    k = min(int(point), len(values) - 2)
    return values[k] + (point - k) * (values[k + 1] - values[k])
