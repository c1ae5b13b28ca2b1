"""The zero of a first-order gradient filter, from below 0 to the pole: stability, speed, variance and training."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from dashpot.analysis import stability, temperature
from dashpot.experiments import momentum_design_space_figures as figures
from dashpot.experiments import zero_on_digits as on_digits
from dashpot.experiments import zero_on_quadratic as on_quadratic
from dashpot.experiments.equilibrium import defined
from dashpot.experiments.intervals import compared, mean_interval, verdict_of
from dashpot.experiments.progress import tracked
from dashpot.experiments.result import Claim, Finding, Outcome, Panel
from dashpot.recipes.momentum_forms import autosgm_zero, nesterov

NAMES = {
    -0.5: "zero -0.5",
    0.0: "heavy ball, zero 0",
    0.25: "zero 0.25",
    float(nesterov(0.9).zero): "Nesterov's zero 0.474",
    autosgm_zero(0.9): "AutoSGM's zero 0.553",
    0.8: "zero 0.8",
    0.9: "plain gradient, zero = pole",
}
"""Names of the zeros; the pole is .9, and all filters have unit DC gain."""
RATES = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
"""Learning rates on the digits; equal rates are equal effective rates."""
LR = 0.1
"""Learning rate of the stationary variance at curvature 1."""
PER_DECADE = 12
PRODUCTS = tuple(10 ** (-3 + k / PER_DECADE) for k in range(5 * PER_DECADE + 1))
"""Grid of products lr h for the speed."""
BOUNDARY, SPEED, VARIANCE = 0.01, 0.02, 0.02
"""Relative tolerances: the grid of the boundary has steps of .2 %, and the speed is measured over 1200 steps."""

_SOURCE = "AutoSGM, introduction"
CLAIMS = (
    Claim(
        _SOURCE, "The heavy ball and Nesterov's method are points of one space of filters, whose stability is known."
    ),
    Claim(_SOURCE, "Changes in smoothing and learning rate affect performance, here the speed on quadratics."),
    Claim("slides, EMA momentum", "At equal effective rate, smoothing hardly changes the temperature."),
    Claim(
        _SOURCE,
        "Changes in smoothing and learning rate affect training stability and performance, here on the digits.",
    ),
)
REASON = (
    "Boundary, speed and variance agree with the closed forms for every zero. The largest stable rate at pole .9 is 20 "
    "times that of the plain gradient near zero 0, and falls quickly below it. On the digits, all zeros train alike at "
    "low rates; a zero from 0 to .55 allows rates at which the plain gradient and a zero of -0.5 fail. The accuracy at "
    "the best rate does not differ beyond its intervals."
)


def run(seeds: Sequence[int], *, quick: bool) -> Outcome:
    """Measure stability, speed and variance on a quadratic, and training on the digits, for each zero."""
    zeros = [0.0, 0.9] if quick else list(NAMES)
    quadratic = [_quadratic_findings(zero, seeds, quick) for zero in tracked(zeros, "zero")]
    findings = [finding for group in quadratic for finding in group]
    digits_findings, digits_data = _digits_findings(zeros, seeds, quick)
    findings += digits_findings
    data = {"map": _map_data(quick), "digits": digits_data}
    return Outcome(
        claims=CLAIMS,
        findings=tuple(findings),
        verdict=verdict_of(findings),
        reason=REASON,
        panels=(
            Panel("quadratic", "Speed and stability on a quadratic", figures.MAP_NOTE, partial(figures.radii, data)),
            Panel("digits", "Training on the digits", figures.DIGITS_NOTE, partial(figures.digits, data), claim=3),
        ),
        settings={
            "pole": on_quadratic.POLE,
            "zeros": zeros,
            "rates on the digits": list(RATES),
            "digits": "64-32-10 tanh network, batch 50, 300 steps",
            "lr of the stationary variance": LR,
            "tolerances": "1 % for the boundary, 2 % for speed and variance",
        },
        data=data,
    )


def _quadratic_findings(zero: float, seeds: Sequence[int], quick: bool) -> list[Finding]:
    steps, copies, samples = (120, 50, 2) if quick else (2000, 2000, 6)
    words = NAMES[zero]
    found = []
    bound = on_quadratic.largest_product(zero, steps)
    predicted = defined(stability(on_quadratic.recipe_of(zero)).largest_curvature)
    found.append(_exact(f"boundary-{zero:.3g}", f"largest stable lr h, {words}", bound, predicted, BOUNDARY, 0))
    products = PRODUCTS[::PER_DECADE] if quick else PRODUCTS
    per_decade = 1 if quick else PER_DECADE
    radii = on_quadratic.radii_map([zero], products, 120 if quick else 1200)[0]
    measured = on_quadratic.fewest_steps(radii.tolist(), per_decade)
    expected = on_quadratic.fewest_steps(on_quadratic.predicted_contraction(zero, products), per_decade)
    statement = f"steps that reduce all errors by 100 at the best rate, condition 100, {words}"
    found.append(_exact(f"speed-{zero:.3g}", statement, measured, expected, SPEED, 1))
    values = on_quadratic.variances(zero, seeds, LR, copies, samples)
    variance = defined(temperature(on_quadratic.recipe_of(zero, LR), 1.0).variance)
    statement = f"stationary variance at lr {LR:g}, curvature 1 and unit noise (small rates: {LR / 2:g}), {words}"
    limits = "for small rates; at lr h = .1, the variance varies by a fifth over the zeros" if zero == 0.8 else ""
    name = f"variance-{zero:.3g}"
    found.append(compared(name, statement, values, variance, tolerance=VARIANCE, limits=limits, claim=2))
    return found


def _exact(name: str, statement: str, measured: float, predicted: float, tolerance: float, claim: int) -> Finding:
    """Return the finding of a measurement without random numbers."""
    holds = abs(measured / predicted - 1) <= tolerance
    return Finding(name, statement, measured, measured, measured, predicted, holds, claim=claim)


def _digits_findings(
    zeros: Sequence[float], seeds: Sequence[int], quick: bool
) -> tuple[list[Finding], list[dict[str, Any]]]:
    rates, steps = (RATES[:2], 5) if quick else (RATES, 300)
    found: list[Finding] = []
    rows = []
    low: dict[float, list[float]] = {}
    for zero in tracked(zeros, "digits, zero"):
        results = {lr: on_digits.train(zero, lr, seeds, steps) for lr in rates}
        low[zero] = results[rates[0]][0].tolist()
        means = {lr: float(loss.mean()) for lr, (loss, _) in results.items()}
        best = min(means, key=means.__getitem__)
        for key, values in zip(("loss", "accuracy"), results[best], strict=True):
            mean, lower, upper = mean_interval(values.tolist())
            statement = f"{'training loss' if key == 'loss' else key} at the best rate, lr {best:g}, {NAMES[zero]}"
            found.append(Finding(f"{key}-{zero:.3g}", statement, mean, lower, upper, claim=3))
        rows.append({"zero": zero, "rates": list(rates), "loss": [means[lr] for lr in rates]})
    return [*_low_rate_findings(low, rates[0]), *found, *_order_findings(rows)], rows


def _low_rate_findings(low: dict[float, list[float]], lr: float) -> list[Finding]:
    """Compare the losses at the lowest rate with that of the plain gradient."""
    plain = low[0.9]
    found = []
    for zero, values in low.items():
        if zero != 0.9:
            ratios = [value / other for value, other in zip(values, plain, strict=True)]
            statement = f"training loss relative to the plain gradient at lr {lr:g}, {NAMES[zero]}"
            found.append(compared(f"low-{zero:.3g}", statement, ratios, 1.0, tolerance=0.02, claim=3))
    return found


def _order_findings(rows: Sequence[dict[str, Any]]) -> list[Finding]:
    """Report the largest rate that trains for each zero, and the stable rate relative to the plain gradient's."""
    largest = {
        row["zero"]: max((lr for lr, loss in zip(row["rates"], row["loss"], strict=True) if loss < 0.1), default=0.0)
        for row in rows
    }
    found = []
    for zero, lr in largest.items():
        statement = f"largest tested rate with a training loss below .1, {NAMES[zero]}"
        found.append(Finding(f"trains-{zero:.3g}", statement, lr, lr, lr, None, lr >= largest[0.9], claim=3))
    return found


def _map_data(quick: bool) -> dict[str, Any]:
    """Return the measured factor per step over zero and lr h, and the predicted boundary."""
    zeros = [-0.5, 0.9] if quick else [-0.9 + 0.1 * k for k in range(19)]
    products = PRODUCTS[::PER_DECADE] if quick else PRODUCTS[PER_DECADE::2]
    radii = on_quadratic.radii_map(zeros, products, 120 if quick else 600)
    fine = [-0.9 + 0.02 * k for k in range(0, 91, 45 if quick else 1)]
    bounds = [defined(stability(on_quadratic.recipe_of(zero)).largest_curvature) for zero in fine]
    return {
        "zeros": [round(zero, 6) for zero in zeros],
        "products": list(products),
        "radii": radii.clip(0, 2).round(4).tolist(),
        "boundary": {"zero": [round(zero, 6) for zero in fine], "product": bounds},
    }
