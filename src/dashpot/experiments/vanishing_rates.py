"""Runs with rates that vanish and rates that do not: a noisy quadratic, a network, and one without noise."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from dashpot.experiments.copies import normal_noise, sample_path
from dashpot.experiments.stacked_network import StackedNetwork, batches, digit_vectors, losses
from dashpot.optimizers.base import Optimizer
from dashpot.optimizers.torch_compatible import SGD
from dashpot.tasks.surfaces import spectrum

LR = 0.1
VARIANCE = 0.01
"""Learning rate and gradient noise of the task `noisy-quadratic` with SGD."""
Factor = Callable[[int], float]


def inverse_time(steps: int) -> Factor:
    """Return the factor 1/(1 + 9 t/steps), which falls to .1 at `steps`, as the schedule "inverse-time" does."""
    return lambda t: 1 / (1 + 9 * t / steps)


def constant(t: int) -> float:
    """Return the factor 1."""
    return 1.0


def root(t: int) -> float:
    """Return the factor (1 + t/300)^-1/2, whose squares have an infinite sum."""
    return (1 + t / 300) ** -0.5


def set_rate(factor: Factor, lr: float) -> Callable[[int, Tensor, Optimizer], None]:
    """Return the function that sets the rate of the next step after a step."""

    def after_step(step: int, weight: Tensor, optimizer: Optimizer) -> None:
        optimizer.param_groups[0]["lr"] = lr * factor(step)

    return after_step


def expected_losses(factor: Factor, times: Sequence[int]) -> dict[int, float]:
    """Return the expected loss of `noisy-quadratic` with SGD at the given times.

    The second moment of a weight with curvature h follows E w^2 <- (1 - lr h)^2 E w^2 + lr^2 variance, from E w^2 = 1.
    """
    curvature = spectrum(20, 100.0).double()
    moment = torch.ones_like(curvature)
    result = {}
    for t in range(max(times)):
        lr = LR * factor(t)
        moment = (1 - lr * curvature).square() * moment + lr**2 * VARIANCE
        if t + 1 in times:
            result[t + 1] = float((curvature * moment).sum()) / 2
    return result


def measured_losses(factor: Factor, times: Sequence[int], seeds: Sequence[int], copies: int) -> dict[int, list[float]]:
    """Return the mean loss of `copies` runs of SGD for each seed, at the given times."""
    curvature = spectrum(20, 100.0).double().repeat(copies)
    draws = normal_noise("vanishing", seeds, 20 * copies)
    start = next(normal_noise("vanishing start", seeds, 20 * copies))
    path = {}

    def record(step: int, weight: Tensor, optimizer: Optimizer) -> None:
        set_rate(factor, LR)(step, weight, optimizer)
        if step in times:
            path[step] = ((curvature * weight.square()).sum(1) / (2 * copies)).tolist()

    sample_path(
        lambda w: SGD(w, lr=LR * factor(0)),
        lambda w: curvature * w + VARIANCE**0.5 * next(draws),
        start,
        max(times),
        keep_from=max(times),
        after_step=record,
    )
    return path


def reversal(vanishing: Callable[[int], Factor], low: int = 300, high: int = 30_000) -> int:
    """Return the number of steps from which on a run with a rate that falls to a tenth ends below a constant rate.

    Args:
        vanishing: Function from the number of steps to the factor.
        low: Number of steps at which the constant rate is better.
        high: Number of steps at which it is worse.
    """
    while high - low > max(1, low // 200):
        middle = (low + high) // 2
        better = expected_losses(vanishing(middle), [middle])[middle] < expected_losses(constant, [middle])[middle]
        low, high = (low, middle) if better else (middle, high)
    return high


def gradient_norms(
    factor: Factor, times: Sequence[int], seeds: Sequence[int], *, lr: float = 0.3, penalty: float = 0.003
) -> Mapping[int, Tensor]:
    """Return the norms of the gradient over all training examples of 64-32-10 networks, trained on batches of 10."""
    inputs, labels, _, _ = digit_vectors()
    model = StackedNetwork((64, 32, 10), seeds)
    optimizer = SGD(model.parameters(), lr=lr)
    source = batches(seeds, 10, replace=True)
    norms = {}
    for step in range(max(times) + 1):
        if step in times:
            optimizer.zero_grad()
            losses(model, inputs[None], labels[None], penalty).sum().backward()
            squares = [p.grad.square().sum((1, 2)).double() for p in model.parameters() if p.grad is not None]
            norms[step] = torch.stack(squares).sum(0).sqrt()
        optimizer.param_groups[0]["lr"] = lr * factor(step)
        optimizer.zero_grad()
        losses(model, *next(source), penalty).sum().backward()
        optimizer.step()
    return norms
