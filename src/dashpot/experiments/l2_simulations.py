"""Simulations of the experiment `l2-vs-decoupled`: the terms of weight decay in the steps of real optimizers.

The tensors are small, so that compiled kernels would not save time.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from dashpot import functional
from dashpot.data.batches import Stream
from dashpot.data.seeding import generator
from dashpot.optimizers.torch_compatible import Adagrad, Adam, AdamW
from dashpot.recipes.recipe import Recipe

DECAY = 0.1
"""The decay coefficient lambda of all simulations."""
STATIONARY_RATE = 0.01
"""Learning rate of Adam and AdamW in the stationary state of quadratics."""


def adagrad_terms(ratios: Sequence[float], seeds: Sequence[int], steps: int, replicas: int) -> Tensor:
    """Return the L2 term in the last step of AdaGrad, in units of lr/sqrt(t), of shape (seeds, ratios).

    The term is lr lambda w/(sqrt(s) + eps). A ratio is lambda w/sigma, where the gradients of the loss are normal with
    mean 0 and standard deviation sigma = 1. The learning rate is small enough that w stays constant.
    """
    start = (torch.tensor(ratios, dtype=torch.float64) / DECAY)[:, None].expand(len(ratios), replicas)
    w = nn.Parameter(start.repeat(len(seeds), 1, 1))
    optimizer = Adagrad([w], lr=1e-7, weight_decay=DECAY, engine="eager")
    noise = [generator("l2-vs-decoupled", "adagrad", seed) for seed in seeds]
    for _ in range(steps):
        w.grad = _normal(noise, (len(ratios), replicas))
        optimizer.step()
    terms = DECAY * w.detach() / optimizer.state[w]["sum"].sqrt()
    return terms.mean(2) * steps**0.5


def relative_shrinkage(
    cls: type[Adam | AdamW], scales: Sequence[float], seeds: Sequence[int], steps: int, replicas: int
) -> Tensor:
    """Return the relative shrinkage of a weight of 1 per step, in units of lr lambda, of shape (seeds, scales).

    The gradients of the loss are normal with mean 0 and standard deviations `scales`. Each run has a partner with the
    opposite gradients, so that their mean contains the decay but not the random walk. The first third of the steps, in
    which Adam's second moment covers few gradients, is omitted.
    """
    lr, first = 2e-7, steps // 3  # so small that the weight, and with it the L2 term, stays constant
    w = nn.Parameter(torch.ones(2, len(seeds), len(scales), replicas, dtype=torch.float64))
    optimizer = cls([w], lr=lr, weight_decay=DECAY, engine="eager")
    noise = [generator("l2-vs-decoupled", "adam", seed) for seed in seeds]
    size = torch.tensor(scales, dtype=torch.float64)[:, None]
    before = w.detach().mean((0, 3))
    for step in range(steps):
        if step == first:
            before = w.detach().mean((0, 3))
        g = size * _normal(noise, (len(scales), replicas))
        w.grad = torch.stack([g, -g])
        optimizer.step()
    return -(w.detach().mean((0, 3)) / before).log() / (lr * DECAY * (steps - first))


class Stationary(NamedTuple):
    """Stationary state of noisy quadratics, of shape (seeds, scales): the effective L2 coefficient, and mean d."""

    strength: Tensor
    denominator: Tensor


def stationary_strength(
    cls: type[Adam | AdamW], scales: Sequence[float], seeds: Sequence[int], steps: int, replicas: int
) -> Stationary:
    """Return the effective L2 coefficient in the stationary state of quadratics with curvature 1 and minimum 1.

    A penalty mu w^2/2 has the stationary point w = 1/(1 + mu), so that mu = (1 - w)/w, where w is the mean weight in
    the second half of the run.
    """
    w = nn.Parameter(torch.full((len(seeds), len(scales), replicas), 0.9, dtype=torch.float64))
    optimizer = cls([w], lr=STATIONARY_RATE, weight_decay=DECAY, engine="eager")
    noise = [generator("l2-vs-decoupled", "stationary", seed) for seed in seeds]
    size = torch.tensor(scales, dtype=torch.float64)[:, None]
    total, roots = torch.zeros_like(w.detach()), torch.zeros_like(w.detach())
    for step in range(steps):
        w.grad = w.detach() - 1 + size * _normal(noise, (len(scales), replicas))
        optimizer.step()
        if step >= steps // 2:
            total += w.detach()
            roots += optimizer.state[w]["exp_avg_sq"].sqrt()
    mean, count = total.mean(2), steps - steps // 2
    return Stationary((count - mean) / mean, roots.mean(2) / count)


def contraction(recipe: Recipe, curvature: float, steps: int) -> float:
    """Return the factor per step by which the error of a quadratic shrinks, from the last steps of a noise-free run.

    For a pair of complex poles, w_t^2 - w_{t+1} w_{t-1} shrinks exactly by their squared modulus; for real poles, w_t
    shrinks by the larger one.
    """
    path = noise_free_path(recipe, curvature, steps, minimum=0.0, start=1.0)
    a, b, c, d = path[-4:]
    complex_pair = min(path) < 0
    return abs((c * c - b * d) / (b * b - a * c)) ** 0.5 if complex_pair else abs(d / c)


def noise_free_path(
    recipe: Recipe, curvature: float, steps: int, *, minimum: float = 1.0, start: float = 0.0
) -> list[float]:
    """Return the weights of a noise-free quadratic."""
    w, path = torch.full((1,), start, dtype=torch.float64), [start]
    state = functional.init(recipe, w)
    for step in range(steps):
        w, state = functional.update(recipe, w, curvature * (w - minimum), state, step)
        path.append(w.item())
    return path


def denominators_on_digits(seed: int, steps: int) -> Tensor:
    """Return the denominators sqrt(s^) + eps of all weights of the digits network after `steps` steps of Adam."""
    from dashpot import tasks

    problem = tasks.get("digits", validation_size=0).build(seed)
    optimizer = Adam(problem.model.parameters(), lr=3e-3, engine="eager")
    train = cast(Stream, problem.train)
    epochs = itertools.chain.from_iterable(train.epoch(number) for number in itertools.count())
    for x, y in itertools.islice(epochs, steps):
        optimizer.zero_grad()
        cross_entropy(problem.model(x), y).backward()
        optimizer.step()
    beta, eps = optimizer.param_groups[0]["betas"][1], optimizer.param_groups[0]["eps"]
    means = [state["exp_avg_sq"].flatten() / (1 - beta**steps) for state in optimizer.state.values()]
    return torch.cat(means).double().sqrt() + eps


def _normal(generators: Sequence[torch.Generator], shape: tuple[int, ...]) -> Tensor:
    """Return standard normal numbers of shape (seeds, *shape)."""
    return torch.stack([torch.randn(shape, dtype=torch.float64, generator=item) for item in generators])
