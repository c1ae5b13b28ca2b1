"""Adam as normalization of the gradient, and the noise analysis that divides the gradient by its variance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from dashpot.experiments import normalisation_figures as figures
from dashpot.experiments.intervals import compared as compared_exactly
from dashpot.experiments.intervals import mean_interval, verdict_of
from dashpot.experiments.normalisation_runs import POLE, RMS, SD, VARIANCE, Digits, maker, quadratic_losses, step_sizes
from dashpot.experiments.progress import tracked
from dashpot.experiments.result import Claim, Finding, Outcome, Panel

SCALES = (0.01, 1.0, 100.0)
LAWS = {"sd 1": 0.0, "sd sqrt(h)": 0.5, "sd h": 1.0}
"""Laws of the gradient noise of the quadratics: the standard deviation is h^p for the curvature h."""
CURVATURES = torch.logspace(-2, 0, 10, dtype=torch.float64)
TUNING = (("tune", 0), ("tune", 1))
"""Seeds of the runs that choose the learning rate."""
WAITING = 200
"""Steps at a rate of zero, in which the averages collect gradients."""
RATE_COUNT = 8
EPS = (1e-4, 1e-3, 1e-2)
"""Values of eps next to a standard deviation; their squares are used next to a variance."""
TOLERANCE = 0.02
"""Relative tolerance of predictions, which neglect the variance of the average of squares."""

CLAIMS = (
    Claim("slides, Adam as gradient normalization", "Adam normalizes the gradient: its scale does not matter."),
    Claim(
        "slides, a noise analysis of centered Adam",
        "A gradient with less noise needs less averaging and allows a larger learning rate: the noise analysis yields "
        "(2), the gradient divided by its variance.",
    ),
    Claim(
        "slides, problem with the analysis",
        "(1), the gradient divided by its root mean square, works better than (2).",
    ),
)
REASON = (
    "Adam's step does not depend on the scale of the gradient. Dividing by the known variance is better than dividing "
    "by the known standard deviation if the variance is proportional to the curvature, and worse if the standard "
    "deviation is. With estimates, (1) is significantly better in some comparisons only: division by the variance of "
    "few gradients makes the first steps of (2) huge. Averages that have collected gradients, or a tuned eps, reduce "
    "this disadvantage, and reverse it where the variance is proportional to the curvature."
)

compared = partial(compared_exactly, tolerance=TOLERANCE)
Losses = dict[str, Any]


def run(seeds: Sequence[int], *, quick: bool) -> Outcome:
    """Compare the denominators root mean square, standard deviation and variance at tuned learning rates."""
    data = _measured(seeds, quick)
    findings = [*_scale_findings(data), *_known_findings(data), *_estimated_findings(data)]
    return Outcome(
        claims=CLAIMS,
        findings=tuple(findings),
        verdict=verdict_of(findings),
        reason=REASON,
        panels=(
            Panel("ratio", "(2) against (1)", figures.RATIO_NOTE, partial(figures.ratio, data), claim=2),
            Panel(
                "rates", "Sensitivity to the learning rate", figures.RATES_NOTE, partial(figures.rates, data), claim=2
            ),
        ),
        settings={
            "betas": [POLE, 0.999],
            "curvatures of the quadratics": "ten from 0.01 to 1",
            "rates per method": RATE_COUNT,
            "ratio of rates": "sqrt(10)",
            "seeds for tuning": 2,
            "schedule": "linear to 0",
            "eps on the digits": list(EPS),
            "tolerance": TOLERANCE,
        },
        data=data,
    )


def _measured(seeds: Sequence[int], quick: bool) -> dict[str, Any]:
    steps, replicas, batches = (15, 2, 2) if quick else (1000, 40, 300)
    keys = [*TUNING, *seeds]
    data: dict[str, Any] = {"steps": step_sizes(maker(RMS), SCALES, seeds, 30 if quick else 3000, 20).tolist()}
    for law, power in tracked(LAWS.items(), "noisy quadratics"):
        noise = CURVATURES**power
        losses = partial(quadratic_losses, seeds=keys, curvature=CURVATURES, steps=steps, replicas=replicas)
        found = {"known sd": _tuned(partial(losses, maker("g"), noise=noise, scale=noise), 0.03)}
        found["known variance"] = _tuned(partial(losses, maker("g"), noise=noise, scale=noise**2), 0.03)
        for direction in (RMS, SD, VARIANCE):
            found[direction] = _tuned(partial(losses, maker(direction), noise=noise), 0.03)
        for direction in (RMS, VARIANCE):
            waiting = partial(losses, maker(direction), noise=noise, waiting=5 if quick else WAITING)
            found[f"{direction}, later"] = _tuned(waiting, 0.03)
        data[law] = found
    data["digits"] = _digits(keys, batches)
    return data


def _digits(keys: Sequence[Any], steps: int) -> dict[str, Losses]:
    """Return losses on the digits for eps = 1e-8 and for the best of three values of eps."""

    def losses(rates: Sequence[float], direction: str, eps: float) -> Tensor:
        return Digits(rates, keys, steps=steps).losses(maker(direction, eps))

    middle = {RMS: 0.03, SD: 0.03, VARIANCE: 3e-4}
    found = {}
    for direction, rate in tracked(middle.items(), "digits"):
        found[direction] = _tuned(partial(losses, direction=direction, eps=1e-8), rate)
        if direction == SD:
            continue
        values = EPS if direction != VARIANCE else [eps**2 for eps in EPS]
        tuned = [_tuned(partial(losses, direction=direction, eps=eps), rate) | {"eps": eps} for eps in values]
        found[f"{direction}, tuned eps"] = min(tuned, key=lambda item: item["tuning loss"])
    return found


def _tuned(losses: Any, middle: float) -> Losses:
    """Return the losses at the learning rate with the lowest loss on the seeds for tuning.

    Args:
        losses: Function from learning rates to losses of shape (rates, seeds), with the seeds for tuning first.
        middle: Learning rate in the middle of the grid.
    """
    rates = [middle * 10 ** (k / 2) for k in range(-RATE_COUNT // 2 + 1, RATE_COUNT // 2 + 1)]
    found = losses(rates=rates)
    tuning = found[:, : len(TUNING)].mean(1).nan_to_num(nan=math.inf)
    best = int(tuning.argmin())
    return {
        "rates": rates,
        "tuning": tuning.clamp_max(1e30).tolist(),
        "tuning loss": float(tuning[best]),
        "rate": rates[best],
        "losses": found[best, len(TUNING) :].tolist(),
    }


def _scale_findings(data: dict[str, Any]) -> list[Finding]:
    predicted = ((1 - POLE) / (1 + POLE)) ** 0.5  # root of the noise gain of the first moment
    rows = []
    for index, scale in enumerate(SCALES):
        values = [row[index] for row in data["steps"]]
        statement = f"Adam: root mean square of the step over lr, gradient sd {scale:g}"
        rows.append(compared(f"step-{scale:g}", statement, values, predicted))
    return rows


def ratio(first: Losses, second: Losses) -> list[float]:
    """Return the logarithm of the ratio of two losses for each seed."""
    pairs = zip(first["losses"], second["losses"], strict=True)
    return [min(max(math.log(a / b), -20.0), 20.0) if a > 0 and b > 0 else 20.0 for a, b in pairs]


def _ratio_finding(
    name: str, statement: str, logs: Sequence[float], *, claim: int, holds: bool = True, limits: str = ""
) -> Finding:
    """Return a finding of a ratio of losses: the geometric mean over seeds and its interval."""
    mean, low, high = (math.exp(value) for value in mean_interval(logs))
    return Finding(name, statement, mean, low, high, None, holds, limits, claim)


def _known_findings(data: dict[str, Any]) -> list[Finding]:
    """Compare known denominators, for which the noise analysis is exact."""
    rows = []
    for law, power in LAWS.items():
        logs = ratio(data[law]["known variance"], data[law]["known sd"])
        low, high = mean_interval(logs)[1:]
        limits = {0.0: "both are proportional to the gradient", 0.5: "", 1.0: "(2) is worse for this noise"}[power]
        holds = {0.0: low <= 0 <= high, 0.5: high < 0, 1.0: low > 0}[power]
        statement = f"loss with known variance over loss with known sd, noise {law}"
        rows.append(_ratio_finding(f"known-{power:g}", statement, logs, claim=1, holds=holds, limits=limits))
    for law, power in LAWS.items():
        statement = f"loss of g/sd (centred Adam) over loss of g/rms (Adam), noise {law}"
        logs = ratio(data[law][SD], data[law][RMS])
        low, high = mean_interval(logs)[1:]
        rows.append(_ratio_finding(f"centred-{power:g}", statement, logs, claim=1, holds=low <= 0 <= high))
    return rows


def _estimated_findings(data: dict[str, Any]) -> list[Finding]:
    """Compare estimated denominators from the first step, after collecting gradients, and on the digits."""
    rows = []
    for law, power in LAWS.items():
        for suffix, words in (("", "from the first step"), (", later", f"after {WAITING} steps at lr 0")):
            logs = ratio(data[law][VARIANCE + suffix], data[law][RMS + suffix])
            key = f"quadratic-{power:g}{'-later' if suffix else ''}"
            rows.append(_compared_directions(key, f"noise {law}, {words}", logs))
    for suffix, words in (("", "eps = 1e-8"), (", tuned eps", "best of three eps")):
        logs = ratio(data["digits"][VARIANCE + suffix], data["digits"][RMS + suffix])
        rows.append(_compared_directions(f"digits{'-tuned' if suffix else ''}", f"digits, {words}", logs))
    return rows


def _compared_directions(name: str, problem: str, logs: Sequence[float]) -> Finding:
    low, high = mean_interval(logs)[1:]
    limits = "" if low > 0 else "(2) is better" if high < 0 else "no significant difference"
    return _ratio_finding(name, f"loss of (2) over loss of (1), {problem}", logs, claim=2, limits=limits)
