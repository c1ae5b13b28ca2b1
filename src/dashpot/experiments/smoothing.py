"""Filtering the gradient as smoothing of the loss."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from dashpot.analysis import response, stability
from dashpot.experiments import smoothing_digits
from dashpot.experiments import smoothing_figures as figures
from dashpot.experiments.intervals import compared, mean_interval, verdict_of
from dashpot.experiments.paths_methods import METHODS
from dashpot.experiments.progress import report_progress, tracked
from dashpot.experiments.result import Claim, Finding, Outcome, Panel
from dashpot.experiments.rough_loss import FREQUENCY, HEIGHT, RoughLoss, rough_loss
from dashpot.experiments.simulation import descend, filtered
from dashpot.optimizers.momentum import QHM
from dashpot.recipes.recipe import Recipe
from dashpot.stages import Filter

BETAS = (0.5, 0.9, 0.99)
SLOW, FAST = 0.02, 0.1
"""Learning rates on the rough loss."""
TRANSIENT = slice(30, 100)
"""Steps at which directions on the rough loss are compared, while the runs cross the ripple."""
PHASE = 0.5
"""Phase of the ripple, in radians, between two steps of the path with constant speed."""
QUADRATIC_RATE = 0.01
"""Rate times curvature at which the decay of errors is compared."""

CLAIMS = (
    Claim(
        "AutoSGM, introduction", "Smoothing the gradient by a first-order filter is approximately smoothing the loss."
    ),
    Claim("AutoSGM, introduction", "The primary function of the filter is regularization, not acceleration."),
    Claim("lesson, momentum", "Momentum smooths out the loss surface."),
)
REASON = (
    "The filtered gradient is exactly the gradient of the loss averaged over the recent path. It is close to the "
    "gradient of a loss smoothed by a normal distribution only at small rates, where the path moves slowly compared "
    "with the ripple; at a higher rate it is farther from it than the plain gradient. At the same rate, the filter "
    "hardly accelerates and ends in lower minima of a rough loss; acceleration comes from the higher rates that it "
    "allows."
)


def run(seeds: Sequence[int], *, quick: bool) -> Outcome:
    """Compare filtered gradients with gradients of smoothed losses, on a rough loss and on the digits."""
    loss = rough_loss(seeds, 50 if quick else 400)
    paths = {
        (lr, beta): descend(_average(beta, lr), loss.start, loss.gradient, 120 if quick else 800)
        for lr in (SLOW, FAST)
        for beta in tracked((0.0, *BETAS), f"rough loss, lr {lr}")
    }
    digits = _digits(seeds, quick=quick)
    findings = [
        _identity_finding(loss, paths[SLOW, 0.9]),
        *_direction_findings(loss, paths),
        *_digits_findings(digits),
        *_speed_findings(),
        *_minima_findings(paths),
        *_ripple_findings((0.5, 0.9) if quick else (0.5, 0.7, 0.9, 0.99)),
    ]
    data = {"directions": _cosine_data(loss, paths), "digits": digits, "ripple": _ripple_data()}
    return Outcome(
        claims=CLAIMS,
        findings=tuple(findings),
        verdict=verdict_of(findings),
        reason=REASON,
        panels=(
            Panel(
                "directions", "Directions on a rough loss", figures.DIRECTIONS_NOTE, partial(figures.directions, data)
            ),
            Panel("digits", "Directions on the digits", figures.DIGITS_NOTE, partial(figures.digits, data)),
            Panel("ripple", "Averaged loss along a path", figures.RIPPLE_NOTE, partial(figures.ripple, data), claim=2),
        ),
        settings={
            "rough loss": f"w^2/2 + {HEIGHT} cos({FREQUENCY:g} w + phase) for each coordinate",
            "coordinates per seed": loss.start.shape[1],
            "rates on the rough loss": [SLOW, FAST],
            "digits": f"network {smoothing_digits.SIZES}, batches of {smoothing_digits.BATCH} with replacement, "
            "average .9, lr .2",
            "rate times curvature of the quadratic": QUADRATIC_RATE,
            "phase of the ripple per step": PHASE,
        },
        data=data,
    )


def _average(beta: float, lr: float) -> Recipe:
    """Return plain descent for beta = 0, and averaged momentum otherwise; its effective rate is lr for every beta."""
    return METHODS["plain"].with_settings(lr=lr) if beta == 0 else QHM.recipe_for(lr=lr, pole=beta, nu=1.0)


def averaged_loss_gradient(loss: RoughLoss, path: Tensor, beta: float, step: int) -> Tensor:
    """Return the gradient of the loss averaged over the path, from automatic differentiation.

    The averaged loss is sum_k h_k f(w + (w_{t-k} - w_t)) with the weights h_k = (1 - beta) beta^k of the filter and
    fixed displacements.
    """
    weights = (1 - beta) * beta ** torch.arange(step + 1, dtype=path.dtype)
    point = path[step].clone().requires_grad_()
    displaced = point + (path[: step + 1].flip(0) - path[step])
    total = (weights[:, None, None] * loss.value(displaced)).sum()
    return torch.autograd.grad(total, point)[0]


def _identity_finding(loss: RoughLoss, path: Tensor) -> Finding:
    step, beta = 60, 0.9
    direction = filtered(Filter(pole=beta, normalise="none"), loss.gradient(path[: step + 1]))[-1]
    expected = averaged_loss_gradient(loss, path, beta, step)
    error = float((direction - expected).abs().max() / expected.abs().max())
    statement = "relative difference to the gradient of the loss averaged over the path, beta 0.9"
    return Finding("identity", statement, error, error, error, 0.0, error < 1e-12)


def path_cosines(loss: RoughLoss, path: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """Return the cosines of filtered and plain gradients with the gradient of a smoothed loss.

    The loss is smoothed by a normal distribution around the point, with the standard deviation of the recent path in
    each coordinate.

    Returns:
        Two tensors of shape (steps, seeds).
    """
    gradient, average = loss.gradient(path), Filter(pole=beta)
    direction = filtered(Filter(pole=beta, normalise="none"), gradient)
    spread = (filtered(average, path**2) - filtered(average, path) ** 2).clamp(min=0).sqrt()
    smoothed = loss.gradient(path, spread)
    return torch.cosine_similarity(direction, smoothed, dim=-1), torch.cosine_similarity(gradient, smoothed, dim=-1)


def _direction_findings(loss: RoughLoss, paths: dict[tuple[float, float], Tensor]) -> list[Finding]:
    rows = []
    for lr, beta in ((SLOW, 0.9), (SLOW, 0.99), (FAST, 0.9)):
        pair = path_cosines(loss, paths[lr, beta][: TRANSIENT.stop], beta)
        direction, plain = (values[TRANSIENT].mean(0) for values in pair)
        closer = mean_interval((direction - plain).tolist()).low > 0
        limits = "" if closer else "at this rate the plain gradient is closer to the gradient of the smoothed loss"
        for name, values in (("filtered", direction), ("plain", plain)):
            statement = f"cosine with the gradient of the smoothed loss, beta {beta}, lr {lr}, {name}"
            own = limits if name == "filtered" else ""
            rows.append(Finding(f"cosine-{name}-{beta}-{lr}", statement, *mean_interval(values.tolist()), limits=own))
    return rows


def _digits(seeds: Sequence[int], *, quick: bool) -> dict[str, list[list[float]]]:
    """Return for each beta, and for each seed, the values of `Similarity`."""
    steps, images = (20, 100) if quick else (400, 1500)
    found: dict[str, list[list[float]]] = {str(beta): [] for beta in (0.0, *BETAS)}
    for seed in tracked(seeds, "digits, seed"):
        gradients = smoothing_digits.record(seed, steps, images=images)
        for beta in (0.0, *BETAS):
            found[str(beta)].append(list(smoothing_digits.similarity(gradients, beta, steps // 4)))
    return found


def _digits_findings(digits: dict[str, list[list[float]]]) -> list[Finding]:
    """Return noise and cosines; a filtered gradient holds if it is closer to the averaged loss than a plain one."""
    rows = []
    plain = [path for path, _, _ in digits["0.0"]]
    for beta, values in digits.items():
        path, point, noise = (list(column) for column in zip(*values, strict=True))
        words = "plain" if beta == "0.0" else f"filtered, beta {beta}"
        closer = beta == "0.0" or mean_interval(path).low > mean_interval(plain).high
        statement = f"digits: cosine with the gradient of the averaged loss, {words}"
        rows.append(Finding(f"digits-path-{beta}", statement, *mean_interval(path), holds=closer))
        late = mean_interval(point).high < mean_interval(path).low
        limits = "the averaged loss is the loss around past points" if late else ""
        statement = f"digits: cosine with the gradient at the current point, {words}"
        rows.append(Finding(f"digits-point-{beta}", statement, *mean_interval(point), limits=limits))
        if beta != "0.0":
            gain = response(Filter(pole=float(beta))).noise_gain or math.nan
            statement = f"digits: variance ratio of filtered noise and noise, beta {beta}"
            rows.append(compared(f"digits-noise-{beta}", statement, noise, gain, tolerance=0.02))
    return rows


def _speed_findings() -> list[Finding]:
    """Return the decay per step of averaged momentum relative to plain descent, at the same rate on a quadratic."""
    rows = []
    for beta in BETAS[:2]:
        recipes = [_average(value, QUADRATIC_RATE) for value in (beta, 0.0)]
        factors = [math.log(stability(recipe, 1.0).spectral_radius or math.nan) for recipe in recipes]
        predicted = factors[0] / factors[1]
        measured = [
            -float(torch.log(path[-1] / path[-101]) / 100)
            for path in (descend(r, torch.ones(1, dtype=torch.float64), lambda w: w, 400) for r in recipes)
        ]
        ratio = measured[0] / measured[1]
        statement = f"speed relative to plain descent at the same rate, beta {beta}"
        holds = math.isclose(ratio, predicted, rel_tol=1e-6)
        limits = "acceleration comes from the higher rates that momentum allows; see the experiment paths"
        rows.append(Finding(f"speed-{beta}", statement, ratio, ratio, ratio, predicted, holds, limits, claim=1))
    return rows


def _minima_findings(paths: dict[tuple[float, float], Tensor]) -> list[Finding]:
    """Return the quadratic part of the loss at the end, which is 0 at the minimum of the smoothed loss."""
    ends = {beta: (paths[SLOW, beta][-1] ** 2 / 2).mean(1) for beta in (0.0, *BETAS)}
    rows = []
    for beta, values in ends.items():
        gain = (ends[0.0] - values).tolist()
        lower = beta == 0 or mean_interval(gain).low > 0
        limits = "" if lower else "as high as with plain descent: the memory is shorter than the ripple"
        statement = f"final loss without ripple, lr {SLOW}, beta {beta:g}"
        rows.append(Finding(f"end-{beta}", statement, *mean_interval(values.tolist()), limits=limits, claim=1))
    return rows


def _ripple_findings(betas: Sequence[float]) -> list[Finding]:
    """Return the ripple of the averaged loss along a path of constant speed, relative to the ripple of the loss."""
    rows = []
    for beta in betas:
        predicted = float(abs(response(Filter(pole=beta)).at(PHASE)))
        measured = averaged_ripple(beta)
        statement = f"ripple of the averaged loss per ripple of the loss, beta {beta}"
        holds = math.isclose(measured, predicted, rel_tol=1e-3)  # the root mean square over a finite number of periods
        rows.append(Finding(f"ripple-{beta}", statement, measured, measured, measured, predicted, holds, claim=2))
    return rows


def averaged_ripple(beta: float) -> float:
    """Return the ratio of the root mean squares of the averaged ripple and of the ripple, after 16 time constants."""
    skipped = int(16 / (1 - beta))
    periods = 2 * math.pi / PHASE
    ripple = torch.cos(PHASE * torch.arange(skipped + round(40 * periods), dtype=torch.float64))
    averaged = filtered(Filter(pole=beta), ripple)
    return float((averaged[skipped:].square().mean() / ripple[skipped:].square().mean()).sqrt())


def _cosine_data(loss: RoughLoss, paths: dict[tuple[float, float], Tensor]) -> dict[str, Any]:
    """Return the mean cosines at each step of the runs at the two rates, for beta = 0.9."""
    shown = {}
    for lr in (SLOW, FAST):
        direction, plain = path_cosines(loss, paths[lr, 0.9][: TRANSIENT.stop], 0.9)
        shown[str(lr)] = {"filtered": direction.mean(1).tolist(), "plain": plain.mean(1).tolist()}
    return shown


def _ripple_data() -> dict[str, Any]:
    """Return a rough loss along a path from -2 to 2, and its averages."""
    report_progress("figures")
    w = torch.linspace(-2, 2, 160, dtype=torch.float64)
    loss = w**2 / 2 + 4 * HEIGHT * torch.cos(FREQUENCY * 2 * w)
    return {
        "w": w.tolist(),
        "loss": loss.tolist(),
        "averages": {str(beta): filtered(Filter(pole=beta), loss).tolist() for beta in (0.5, 0.9, 0.99)},
    }
