"""Moving averages of noisy points: noise, delay, initial bias and its corrections."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from dashpot.analysis import response
from dashpot.data.seeding import generator
from dashpot.experiments import averages_figures as figures
from dashpot.experiments.intervals import compared as compared_exactly
from dashpot.experiments.intervals import mean_interval, verdict_of
from dashpot.experiments.progress import tracked
from dashpot.experiments.result import Claim, Finding, Outcome, Panel
from dashpot.experiments.simulation import filtered
from dashpot.stages import Filter

BETAS = (0.5, 0.7, 0.9, 0.99)
SD = 0.1
"""Standard deviation of the noise around the curve."""
LENGTH = 10
"""N of the comparison of averages over N values; the corresponding beta is 0.9."""
EARLY = 5
"""Step at which the initial phase is measured."""
TOLERANCE = 0.02
"""Relative tolerance of comparisons with predictions, beside the interval: one of twenty 95 % intervals misses."""

CLAIMS = (
    Claim("tutorial, exponentially weighted averages", "The average gets noisier as beta becomes lower."),
    Claim("lesson, momentum", "Averages with beta .5, .7, .9 and .99 smooth noisy points of a curve."),
    Claim(
        "tutorial, exponentially weighted averages",
        "An average that starts at zero is too low in the initial phase; division by 1 - beta^t removes this bias.",
    ),
    Claim(
        "slides, bias correction",
        "The coefficient 1/min(t, N), with N = 1/(1 - beta), avoids the initial bias, with the same effect as Adam's "
        "correction.",
    ),
    Claim(
        "slides, exponential moving average",
        "The average with beta = 1 - 1/N corresponds to the moving average of the N most recent values.",
    ),
)
REASON = (
    "Noise, delay and bias agree with the closed forms. Averaging lowers the noise but delays the average: with "
    "beta .9 and .99, the average is farther from the lesson's curve than the points themselves. An average with pole "
    "1 - 1/N has the noise and the delay of a moving average over 2N - 1 values, and the two corrections differ for t "
    "from 2 to a few N."
)

compared = partial(compared_exactly, tolerance=TOLERANCE)


def run(seeds: Sequence[int], *, quick: bool) -> Outcome:
    """Measure noise, delay and bias of moving averages."""
    series, steps = (50, 700) if quick else (200, 4000)
    noise = _normal("noise", seeds, steps, series)
    gains = {beta: stationary_variances(beta, noise) for beta in tracked(BETAS, "beta")}
    findings = [
        *_noise_findings(gains),
        *_curve_findings(seeds, series),
        *_bias_findings(seeds, series),
        *_correction_findings(seeds, series),
        *_window_findings(gains[1 - 1 / LENGTH], noise),
    ]
    data = {
        "noise": {str(beta): list(mean_interval(values)) for beta, values in gains.items()},
        "points": _points_data(seeds[0]),
        "start": _start_data(),
    }
    return Outcome(
        claims=CLAIMS,
        findings=tuple(findings),
        verdict=verdict_of(findings),
        reason=REASON,
        panels=(
            Panel(
                "points", "Noisy points and their averages", figures.POINTS_NOTE, partial(figures.points, data), claim=1
            ),
            Panel("noise", "Noise against beta", figures.NOISE_NOTE, partial(figures.noise, data)),
            Panel("start", "Initial phase", figures.START_NOTE, partial(figures.start, data), claim=2),
        ),
        settings={
            "betas": list(BETAS),
            "sd of the points": SD,
            "steps": steps,
            "series per seed": series,
            "tolerance": TOLERANCE,
        },
        data=data,
    )


def stationary_variances(beta: float, noise: Tensor) -> list[float]:
    """Return for each seed the variance of the average of unit noise after five time constants.

    Args:
        beta: Pole of the average.
        noise: Noise of shape (steps, seeds, series).
    """
    skipped = int(5 / (1 - beta))
    return _over_series(filtered(Filter(pole=beta), noise)[skipped:].square())


def noise_gain(beta: float) -> float:
    """Return the stationary variance of an average of unit white noise, (1 - beta)/(1 + beta)."""
    gain = response(Filter(pole=beta)).noise_gain
    assert gain is not None
    return gain


def delay(beta: float) -> float:
    """Return the delay of an average behind a ramp in steps, beta/(1 - beta)."""
    steps = response(Filter(pole=beta)).mean_delay
    assert steps is not None
    return steps


def corrected_weights(beta: float, t: int) -> Tensor:
    """Return the weights of the t newest points, newest first, in the average divided by 1 - beta^t."""
    return (1 - beta) * beta ** torch.arange(t, dtype=torch.float64) / (1 - beta**t)


def lesson_curve() -> Tensor:
    """Return the lesson's curve 1 - (x/3)^2 at 100 points from -4 to 4."""
    return 1 - (torch.linspace(-4, 4, 100, dtype=torch.float64) / 3) ** 2


def predicted_error(beta: float, curve: Tensor) -> float:
    """Return the expected root mean square distance of the corrected average of noisy points to their curve."""
    total = 0.0
    for t in range(1, len(curve) + 1):
        weights = corrected_weights(beta, t)
        offset = weights @ curve[:t].flip(0) - curve[t - 1]
        total += float(offset**2 + SD**2 * weights.square().sum())
    return (total / len(curve)) ** 0.5


def _normal(key: str, seeds: Sequence[int], steps: int, series: int) -> Tensor:
    """Return standard normal noise of shape (steps, seeds, series)."""
    draws = [
        torch.randn(steps, series, dtype=torch.float64, generator=generator("averages", key, seed)) for seed in seeds
    ]
    return torch.stack(draws, dim=1)


def _over_series(values: Tensor) -> list[float]:
    """Return for each seed the mean over steps and series of values of shape (steps, seeds, series)."""
    return values.mean((0, 2)).tolist()


def _noise_findings(gains: dict[float, list[float]]) -> list[Finding]:
    return [
        compared(
            f"noise-gain-{beta}",
            f"variance ratio of average and points, beta {beta}",
            values,
            noise_gain(beta),
        )
        for beta, values in gains.items()
    ]


def _curve_findings(seeds: Sequence[int], series: int) -> list[Finding]:
    """Return the delay behind a ramp, and the distance of the averages to the lesson's curve."""
    curve, findings = lesson_curve(), []
    noisy = curve[:, None, None] + SD * _normal("curve", seeds, len(curve), series)
    for beta in BETAS:
        distance = filtered(Filter(pole=beta), noisy) - curve[:, None, None]
        errors = [value**0.5 for value in _over_series(distance.square())]
        predicted = predicted_error(beta, curve)
        limits = "" if predicted < SD else f"the average is farther from the curve than the points, {SD:g}"
        statement = f"distance to the curve (points: {SD:g}), beta {beta}"
        findings.append(compared(f"error-{beta}", statement, errors, predicted, limits=limits, claim=1))
    for beta in BETAS:
        lag = ramp_delay(beta)
        findings.append(
            Finding(f"delay-{beta}", f"delay behind a ramp in steps, beta {beta}", lag, lag, lag, delay(beta), claim=1)
        )
    return findings


def ramp_delay(beta: float) -> float:
    """Return the measured delay of an average behind the ramp 1, 2, 3, ... after 16 time constants."""
    steps = int(16 / (1 - beta))
    ramp = torch.arange(1, steps + 1, dtype=torch.float64)
    return float(steps - filtered(Filter(pole=beta, normalise="none"), ramp)[-1])


def _bias_findings(seeds: Sequence[int], series: int) -> list[Finding]:
    beta = 1 - 1 / LENGTH
    points = 1 + SD * _normal("bias", seeds, 5 * LENGTH, series)
    rows = []
    for name, words in (("none", "zero start"), ("exact", "divided by 1 - beta^t")):
        averages = filtered(Filter(pole=beta, normalise=name), points)
        for t in (1, EARLY, 5 * LENGTH):
            predicted = 1 - beta**t if name == "none" else 1.0
            means = _over_series(averages[t - 1 : t])
            statement = f"average of points with mean 1 at t = {t}, {words}"
            rows.append(compared(f"bias-{name}-{t}", statement, means, predicted, claim=2))
    return rows


def _correction_findings(seeds: Sequence[int], series: int) -> list[Finding]:
    """Compare the corrections 1/min(t, N) and 1/(1 - beta^t): mean, and variance at t = N."""
    beta = 1 - 1 / LENGTH
    noise = _normal("correction", seeds, LENGTH, 20 * series)
    running = Filter(pole=beta, normalise="running")
    means = _over_series(filtered(running, 1 + SD * noise[:EARLY])[-1:])
    rows = [compared("running-mean", f"average of points with mean 1 at t = {EARLY}, 1/min(t, N)", means, 1.0, claim=3)]
    exact = noise_gain(beta) * (1 + beta**LENGTH) / (1 - beta**LENGTH)
    limits = "the corrections agree at t = 1 and for t much above N; in between, Adam's weighs new points more"
    for name, stage, predicted, condition in (
        ("running", running, 1 / LENGTH, ""),
        ("exact", Filter(pole=beta), exact, limits),
    ):
        words = "1/min(t, N)" if name == "running" else "1/(1 - beta^t)"
        values = _over_series(filtered(stage, noise)[-1:].square())
        statement = f"variance ratio of average and points at t = N = {LENGTH}, {words}"
        rows.append(compared(f"{name}-variance", statement, values, predicted, limits=condition, claim=3))
    return rows


def _window_findings(variances: Sequence[float], noise: Tensor) -> list[Finding]:
    """Compare the average with pole 1 - 1/N with moving averages over N and over 2N - 1 values."""
    rows: list[Finding] = []
    limits = f"it has the variance and the delay of the moving average over 2N - 1 = {2 * LENGTH - 1} values"
    for name, length, condition in (("n", LENGTH, limits), ("2n-1", 2 * LENGTH - 1, "")):
        moving = _over_series(noise.unfold(0, length, 1).mean(-1).square())
        ratios = [value / other for value, other in zip(variances, moving, strict=True)]
        statement = f"variance ratio to the mean of {length} values, N = {LENGTH}"
        rows.append(compared(f"window-{name}", statement, ratios, length / (2 * LENGTH - 1), limits=condition, claim=4))
    return rows


def _points_data(seed: int) -> dict[str, object]:
    curve = lesson_curve()
    points = curve + SD * _normal("curve", [seed], len(curve), 1)[:, 0, 0]
    averages = {str(beta): filtered(Filter(pole=beta, normalise="none"), points).tolist() for beta in BETAS}
    corrected = {str(beta): filtered(Filter(pole=beta), points).tolist() for beta in BETAS}
    x = torch.linspace(-4, 4, 100).tolist()
    return {"x": x, "y": points.tolist(), "curve": curve.tolist(), "zero start": averages, "corrected": corrected}


def _start_data() -> dict[str, object]:
    """Return the average of a constant 1, and the weight of the newest point, in the first 4N steps."""
    beta, ones = 1 - 1 / LENGTH, torch.ones(4 * LENGTH, dtype=torch.float64)
    kinds = {"zero start": "none", "1/(1 - beta^t)": "exact", "1/min(t, N)": "running"}
    outputs = {words: filtered(Filter(pole=beta, normalise=kind), ones).tolist() for words, kind in kinds.items()}
    t = torch.arange(1, 4 * LENGTH + 1, dtype=torch.float64)
    weights = {
        "zero start": torch.full_like(t, 1 - beta).tolist(),
        "1/(1 - beta^t)": ((1 - beta) / (1 - beta**t)).tolist(),
        "1/min(t, N)": (1 / t.clamp(max=LENGTH)).tolist(),
    }
    return {"t": t.tolist(), "outputs": outputs, "weights": weights}
