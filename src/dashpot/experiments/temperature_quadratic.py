"""Measurements of the experiment `temperature` on a quadratic loss w^2/2 with gradient noise of variance 1."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dashpot.analysis import temperature
from dashpot.experiments.copies import normal_noise, sample_path
from dashpot.experiments.equilibrium import (
    Create,
    defined,
    distribution_distance,
    influence_of_one_gradient,
    stationary_weights,
)
from dashpot.experiments.intervals import compared as compared_exactly
from dashpot.experiments.intervals import mean_interval
from dashpot.experiments.progress import tracked
from dashpot.experiments.result import Finding
from dashpot.optimizers.momentum import QHM, HeavyBall
from dashpot.optimizers.torch_compatible import SGD

LR = 0.02
RATES = (0.01, 0.02, 0.04)
"""Learning rates of the three temperatures."""
WEIGHTS = 10
"""Weights per model in the distribution of the loss."""
TOLERANCE = 0.02
"""Relative tolerance of comparisons with closed forms, beside the interval: one of twenty 95 % intervals misses."""

compared = partial(compared_exactly, tolerance=TOLERANCE)


class Size(NamedTuple):
    """Numbers of copies per seed, steps before the first sample, samples, and steps between samples."""

    copies: int
    burn_in: int
    samples: int
    every: int


def size_of(quick: bool) -> Size:
    """Return the size of the simulations."""
    return Size(50, 60, 2, 20) if quick else Size(2000, 1200, 8, 150)


def plain(w: list[Tensor], lr: float = LR) -> SGD:
    """Return SGD without momentum."""
    return SGD(w, lr=lr)


def averaged(w: list[Tensor], pole: float, lr: float = LR) -> QHM:
    """Return momentum as a moving average (EMA)."""
    return QHM(w, lr=lr, pole=pole, nu=1.0)


def heavy_ball(w: list[Tensor], lr: float = LR, pole: float = 0.9) -> HeavyBall:
    """Return momentum as a sum, torch's parametrization."""
    return HeavyBall(w, lr=lr, pole=pole)


def predicted_loss(create: Create, batch: int = 1) -> float:
    """Return the predicted stationary loss."""
    return defined(temperature(create([torch.zeros(1)]).recipe, 1.0, batch=batch).excess_loss)


def measured_losses(create: Create, seeds: Sequence[int], size: Size, batch: int = 1, key: str = "loss") -> list[float]:
    """Return the measured stationary loss for each seed."""
    weights = stationary_weights(create, seeds, **size._asdict(), batch=batch, key=key)
    return (weights.square().mean(1) / 2).tolist()


def rate_findings(seeds: Sequence[int], size: Size, claim: int) -> tuple[list[Finding], dict[str, Any]]:
    """Compare the distributions of weight and loss with Gibbs distributions at three rates, and at a large rate."""
    findings, data = [], {}
    for lr in tracked(RATES, "rate"):
        weights = stationary_weights(partial(plain, lr=lr), seeds, **size._asdict(), key="rates")
        model_losses = weights.view(len(seeds), -1, WEIGHTS).square().sum(2) / 2
        predicted = temperature(plain([torch.zeros(1)], lr).recipe, 1.0)
        statement = f"mean loss of a weight, lr {lr:g} (Gibbs: T/2 = lr/4 = {lr / 4:.3g})"
        losses = (weights.square().mean(1) / 2).tolist()
        findings.append(compared(f"loss-{lr:g}", statement, losses, defined(predicted.excess_loss), claim=claim))
        spread = (model_losses.std(1) / model_losses.mean(1)).tolist()
        statement = f"standard deviation of the loss of {WEIGHTS} weights relative to its mean, lr {lr:g}"
        findings.append(compared(f"spread-{lr:g}", statement, spread, (2 / WEIGHTS) ** 0.5, claim=claim))
        data[f"{lr:g}"] = {
            "temperature": predicted.small_rate_temperature,
            "weights": _histogram(weights.flatten(), -0.6, 0.6),
            "losses": _histogram(model_losses.flatten(), 0.0, 0.4),
        }
    return [*findings, _large_rate(seeds, size, claim)], data


def _large_rate(seeds: Sequence[int], size: Size, claim: int) -> Finding:
    """Measure the variance at lr h = 1, where the Gibbs form does not hold."""
    weights = stationary_weights(partial(plain, lr=1.0), seeds, **size._replace(burn_in=50, every=20)._asdict())
    exact = temperature(plain([torch.zeros(1)], 1.0).recipe, 1.0)
    gibbs = defined(exact.small_rate_temperature)
    ratios = (weights.square().mean(1) / gibbs).tolist()
    limits = "the Gibbs form with T = lr/2 is the limit of small rates; at lr h = 1 the variance is twice as large"
    return compared(
        "large-rate",
        "variance at lr h = 1 relative to the Gibbs form",
        ratios,
        defined(exact.variance) / gibbs,
        limits=limits,
        claim=claim,
    )


def _histogram(values: Tensor, low: float, high: float, bins: int = 20) -> dict[str, list[float]]:
    counts = torch.histc(values, bins, low, high) / (len(values) * (high - low) / bins)
    middles = low + (torch.arange(bins) + 0.5) * (high - low) / bins
    return {"x": middles.tolist(), "density": counts.tolist()}


def start_findings(seeds: Sequence[int], size: Size, claim: int) -> tuple[list[Finding], dict[str, Any]]:
    """Measure the distance of the distributions that start ten standard deviations apart."""
    copies = 2 * size.copies
    draws = normal_noise("starts", seeds, copies)
    start = torch.ones(len(seeds), copies, dtype=torch.float64)
    start[:, : size.copies] = -1.0
    every = 10
    steps = size.burn_in // every * every
    path = sample_path(plain, lambda w: w + next(draws), start, steps, every=every)
    halves = path.split(size.copies, dim=2)
    distances = [
        [distribution_distance(a, b) for a, b in zip(left, right, strict=True)]
        for left, right in zip(*halves, strict=True)
    ]
    final = [max(column) for column in zip(*distances[-len(distances) // 4 :], strict=True)]
    critical = _critical_distance(size.copies, len(distances) - len(distances) * 3 // 4)
    mean, low, high = mean_interval(final)
    statement = (
        f"Kolmogorov-Smirnov distance between the distributions from w = -1 and w = 1 after {steps * 3 // 4} steps or "
        f"more, largest value (same distribution: below {critical:.3g} with probability .999)"
    )
    finding = Finding("starts", statement, mean, low, high, None, mean < critical, claim=claim)
    data = {"step": [every * k for k in range(len(path))], "distance": [sum(d) / len(d) for d in distances]}
    return [finding], data


def _critical_distance(copies: int, times: int) -> float:
    """Return the distance of two samples of one distribution that is exceeded at any of `times` with probability .001.

    The tail is 2 exp(-n d^2) for two samples of size n each, with Bonferroni's correction.
    """
    return float(torch.tensor(2 * times / 0.001).log().div(copies).sqrt())


def momentum_findings(seeds: Sequence[int], size: Size, claim: int) -> tuple[list[Finding], list[dict[str, Any]]]:
    """Compare the loss and the influence of one gradient for several poles and both parametrizations."""
    settings: list[tuple[str, str, Create]] = [
        ("plain", "no momentum", plain),
        ("ema-0.9", "average, pole .9", partial(averaged, pole=0.9)),
        ("ema-0.99", "average, pole .99", partial(averaged, pole=0.99)),
        ("heavy-ball-0.9", "heavy ball, pole .9", heavy_ball),
    ]
    limits = {"heavy-ball-0.9": "the heavy ball's temperature is 1/(1 - pole) times as high: its lr must be scaled"}
    findings, rows = [], []
    for name, words, create in tracked(settings, "momentum"):
        losses, predicted = measured_losses(create, seeds, size), predicted_loss(create)
        limit = limits.get(name, "")
        statement = f"stationary loss at lr {LR:g}, {words}"
        findings.append(compared(f"loss-{name}", statement, losses, predicted, limits=limit, claim=claim))
        influence = influence_of_one_gradient(create, size.burn_in + 200)
        total = defined(temperature(create([torch.zeros(1)]).recipe, 1.0).influence)
        statement = f"displacement by one unit gradient at lr {LR:g}, {words}"
        holds = abs(influence / total - 1) < 1e-6  # the sum without the terms after 1400 steps, .99^1400 = 8e-7 of it
        findings.append(
            Finding(f"influence-{name}", statement, influence, influence, influence, total, holds, limit, claim)
        )
        rows.append({"name": words, **_bar(losses, predicted)})
    return findings, rows


def batch_findings(
    seeds: Sequence[int], size: Size, fixed: int, scaled: int
) -> tuple[list[Finding], dict[str, list[dict[str, Any]]]]:
    """Compare the loss for batches of 1, 4 and 16 at a fixed rate, at lr = B lr0, and with momentum.

    Args:
        seeds: The seeds.
        size: Size of the simulations.
        fixed: Claim on a fixed rate.
        scaled: Claim on scaled rates.
    """
    findings: list[Finding] = []
    data: dict[str, list[dict[str, Any]]] = {"fixed": [], "scaled": [], "momentum": []}
    for batch in tracked((1, 4, 16), "batch"):
        kinds: list[tuple[str, str, Create, int]] = [
            ("fixed", f"lr {LR:g}", plain, fixed),
            ("scaled", f"lr = B {LR:g}", partial(plain, lr=batch * LR), scaled),
            (
                "momentum",
                f"lr = (1 - mu) B {LR:g}, heavy ball with mu .9",
                partial(heavy_ball, lr=0.1 * batch * LR),
                scaled,
            ),
        ]
        for kind, words, create, claim in kinds:
            losses, predicted = measured_losses(create, seeds, size, batch, key=kind), predicted_loss(create, batch)
            limits = "while B lr0 h is much below 2: the loss rises by 18 % at B lr0 h = .32"
            limits = limits if kind == "scaled" and batch == 16 else ""
            statement = f"stationary loss, batch {batch}, {words}"
            findings.append(compared(f"{kind}-{batch}", statement, losses, predicted, limits=limits, claim=claim))
            data[kind].append({"name": f"B {batch}", **_bar(losses, predicted)})
    return findings, data


def _bar(values: Sequence[float], predicted: float) -> dict[str, float]:
    mean, low, high = mean_interval(values)
    return {"measured": mean, "low": low, "high": high, "predicted": predicted}
