"""L2 regularization and decoupled weight decay in adaptive methods, and both as damping of parameter changes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch

from dashpot.analysis import stability, temperature
from dashpot.experiments import l2_figures as figures
from dashpot.experiments import l2_simulations as simulations
from dashpot.experiments.intervals import compared as compared_exactly
from dashpot.experiments.intervals import mean_interval, verdict_of
from dashpot.experiments.l2_simulations import DECAY, STATIONARY_RATE
from dashpot.experiments.progress import report_progress, tracked
from dashpot.experiments.result import Claim, Finding, Outcome, Panel
from dashpot.optimizers.torch_compatible import Adam, AdamW
from dashpot.recipes.recipe import Recipe
from dashpot.stages import ChangeDecay, CoupledDecay, Filter
from dashpot.stages.filter import unit_gain

RATIOS = (0.01, 0.1, 1.0, 10.0, 100.0)
"""Sizes of the L2 term's gradient relative to the gradient noise, lambda w/sigma."""
SCALES = (0.01, 0.1, 1.0, 10.0)
"""Standard deviations of the gradient."""
STATIONARY_SCALES = (0.1, 0.3, 1.0, 3.0)
TOLERANCE = 0.003
"""Relative tolerance of predictions, which neglect the variance of the averages of squares: 3/8 of 2/500 and less."""
QUANTILES = (0.1, 0.5, 0.9)

CLAIMS = (
    Claim("tutorial, AdamW", "In AdaGrad, the L2 term of the update is largely a constant."),
    Claim(
        "tutorial, AdamW",
        "In an adaptive method, L2 regularization is not equivalent to weight decay: it is divided by the denominator, "
        "whereas AdamW subtracts the decay from the weight.",
    ),
    Claim(
        "AutoSGM, introduction",
        "Coupled and decoupled decay act as damping at the level of the parameter change, with coefficients related by "
        "rho' = rho/eta.",
    ),
)
REASON = (
    "AdaGrad's L2 term is independent of the weight and of lambda only where it dominates the gradient; elsewhere it "
    "is proportional to the weight and inversely proportional to the gradient. Adam therefore shrinks weights with "
    "large gradients less, and AdamW shrinks all weights equally; in the stationary state, AdamW acts as an L2 "
    "penalty of lambda d. Both decays speed up an overdamped mode, but in an oscillating mode only decoupled decay "
    "damps, since coupled decay adds to the curvature. With rho' = rho/eta, both have the same stationary point; the "
    "paths are equal only if zero = pole."
)

compared = partial(compared_exactly, tolerance=TOLERANCE)


def run(seeds: Sequence[int], *, quick: bool) -> Outcome:
    """Measure the terms of coupled and decoupled decay in AdaGrad, Adam, AdamW and on quadratics."""
    data = _measured(seeds, quick)
    findings = [*_adagrad_findings(data), *_adam_findings(data), *_digits_findings(data), *_damping_findings(data)]
    return Outcome(
        claims=CLAIMS,
        findings=tuple(findings),
        verdict=verdict_of(findings),
        reason=REASON,
        panels=(
            Panel("adagrad", "The L2 term of AdaGrad", figures.ADAGRAD_NOTE, partial(figures.adagrad, data)),
            Panel("adam", "Adam and AdamW", figures.ADAM_NOTE, partial(figures.adam, data), claim=1),
            Panel("damping", "Decay as damping", figures.DAMPING_NOTE, partial(figures.damping, data), claim=2),
        ),
        settings={
            "lambda": DECAY,
            "betas": "(0.9, 0.999)",
            "runs per seed": 20 if quick else 100,
            "steps": {"AdaGrad": data["steps"][0], "shrinkage": data["steps"][1], "stationary": data["steps"][2]},
            "tolerance": TOLERANCE,
        },
        data=data,
    )


def l2_term(ratio: float) -> float:
    """Return the expected L2 term of AdaGrad in units of lr/sqrt(t), for a ratio lambda w/sigma."""
    return ratio / (1 + ratio**2) ** 0.5


def adam_shrinkage(scale: float) -> float:
    """Return Adam's relative shrinkage of a weight of 1 per step, in units of lr lambda: 1/d."""
    return 1 / (scale**2 + DECAY**2) ** 0.5


def stationary_strength(scale: float) -> float:
    """Return the L2 coefficient of AdamW's stationary state with unit curvature and minimum 1.

    It is mu = lambda d, where d^2 is the mean square of the gradient: the sum of the variances of noise and weight and
    of (mu/(1 + mu))^2. The weight has the stationary variance of momentum at the rate lr/d.
    """
    root = scale
    for _ in range(12):  # each iteration reduces the error by a factor of ten or more
        strength = DECAY * root
        variance = temperature(Recipe(Filter(0.9), lr=STATIONARY_RATE / root), 1.0, noise=scale**2).variance
        assert variance is not None
        root = (scale**2 + variance + (strength / (1 + strength)) ** 2) ** 0.5
    return DECAY * root


def _measured(seeds: Sequence[int], quick: bool) -> dict[str, Any]:
    """Return all measurements as plain data, with one row for each seed."""
    replicas, steps = (20, (60, 120, 120)) if quick else (100, (1000, 1500, 6000))
    report_progress("AdaGrad")
    data: dict[str, Any] = {"steps": steps}
    data["adagrad"] = simulations.adagrad_terms(RATIOS, seeds, steps[0], replicas).tolist()
    for name, cls in tracked({"Adam": Adam, "AdamW": AdamW}.items(), "Adam and AdamW"):
        data[name] = simulations.relative_shrinkage(cls, SCALES, seeds, steps[1], replicas).tolist()
        found = simulations.stationary_strength(cls, STATIONARY_SCALES, seeds, steps[2], replicas)
        data[f"{name} strength"] = found.strength.tolist()
    places = torch.tensor(QUANTILES, dtype=torch.float64)
    rows = [simulations.denominators_on_digits(seed, 3 if quick else 90) for seed in tracked(seeds, "digits")]
    data["digits"] = [(1 / row).quantile(places).tolist() for row in rows]
    data["paths"] = {name: simulations.noise_free_path(recipe, 1.0, 300) for name, recipe in _decays(0.2).items()}
    return data


def _column(rows: Sequence[Sequence[float]], index: int) -> list[float]:
    return [row[index] for row in rows]


def _adagrad_findings(data: dict[str, Any]) -> list[Finding]:
    rows = []
    for index, ratio in enumerate(RATIOS):
        limits = "" if ratio > 1 else "not constant: the term is proportional to the weight" * (ratio < 1)
        statement = f"L2 term in units of lr/sqrt(t), lambda w/sigma = {ratio:g}"
        values = _column(data["adagrad"], index)
        rows.append(compared(f"adagrad-{ratio:g}", statement, values, l2_term(ratio), limits=limits))
    return rows


def _adam_findings(data: dict[str, Any]) -> list[Finding]:
    rows = []
    for name, predicted in (("Adam", adam_shrinkage), ("AdamW", lambda scale: 1.0)):
        for index, scale in enumerate(SCALES):
            statement = f"{name}: shrinkage per step over lr lambda, gradient sd {scale:g}"
            key = f"{name.lower()}-{scale:g}"
            rows.append(compared(key, statement, _column(data[name], index), predicted(scale), claim=1))
    for name, predicted in (("Adam", lambda scale: DECAY), ("AdamW", stationary_strength)):
        for index, scale in enumerate(STATIONARY_SCALES):
            statement = f"{name}: stationary L2 coefficient, gradient sd {scale:g}"
            key = f"{name.lower()}-strength-{scale:g}"
            values = _column(data[f"{name} strength"], index)
            rows.append(compared(key, statement, values, predicted(scale), claim=1))
    return rows


def _digits_findings(data: dict[str, Any]) -> list[Finding]:
    spread = [row[2] / row[0] for row in data["digits"]]
    mean, low, high = mean_interval(spread)
    statement = "digits: 90 % over 10 % quantile of Adam's shrinkage over the weights"
    return [Finding("digits-spread", statement, mean, low, high, None, low > 1, claim=1)]


def _decays(rho: float, zero: float = 0.0) -> dict[str, Recipe]:
    """Return recipes without decay, with coupled decay rho, and with decay rho' = rho/eta at the level of the change.

    AutoSGM adds eta rho' w to the direction, where eta = (1 - pole)/(1 - zero) is the gain for unit DC gain.
    """
    smoothing = Filter(0.9, zero=zero)
    eta = float(unit_gain(0.9, zero))
    return {
        "no decay": Recipe(smoothing, lr=1.0),
        "coupled": Recipe(CoupledDecay(rho), smoothing, lr=1.0),
        "change level": Recipe(smoothing, ChangeDecay(rho / eta, eta), lr=1.0),
    }


def _damping_findings(data: dict[str, Any]) -> list[Finding]:
    """Compare contraction per step with the spectral radius, for an oscillating and an overdamped mode."""
    rows = []
    for curvature, rho, mode in ((1.0, 0.2, "oscillating"), (0.005, 0.005, "overdamped")):
        recipes = _decays(rho)
        plain = simulations.contraction(recipes["no decay"], curvature, 300)
        for name, recipe in recipes.items():
            found = simulations.contraction(recipe, curvature, 300)
            predicted = stability(recipe, curvature).spectral_radius
            assert predicted is not None
            damps = name == "no decay" or found < plain - 1e-6
            statement = f"factor per step, {mode} mode (lr h = {curvature:g}), {name}"
            holds = abs(found - predicted) <= 1e-6
            limits = "" if damps else "coupled decay adds to the curvature and does not damp this mode"
            key = f"{mode}-{name.replace(' ', '-')}"
            rows.append(Finding(key, statement, found, found, found, predicted, holds, limits, claim=2))
    return [*rows, *_path_findings(data)]


def _path_findings(data: dict[str, Any]) -> list[Finding]:
    """Compare stationary points and paths of coupled and change-level decay with rho' = rho/eta."""
    rows = []
    for name in ("coupled", "change level"):
        found = data["paths"][name][-1]
        statement = f"stationary point, minimum 1, curvature 1, rho .2, {name}"
        holds = abs(found - 1 / 1.2) < 1e-6
        rows.append(Finding(f"point-{name.replace(' ', '-')}", statement, found, found, found, 1 / 1.2, holds, claim=2))
    for zero, words in ((0.9, "zero = pole"), (0.0, "zero 0")):
        recipes = _decays(0.2, zero)
        paths = [simulations.noise_free_path(recipes[name], 1.0, 60) for name in ("coupled", "change level")]
        found = max(abs(a - b) for a, b in zip(*paths, strict=True))
        limits = "" if zero else "the paths differ, since coupled decay passes through the filter"
        statement = f"largest difference of the paths with rho' = rho/eta, {words}"
        holds = found < 1e-12 if zero else found > 1e-3
        rows.append(Finding(f"paths-{zero:g}", statement, found, found, found, 0.0 if zero else None, holds, limits, 2))
    return rows
