"""Measurements of the experiment `temperature` on a double well."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch

from dashpot.experiments.copies import normal_noise, sample_path
from dashpot.experiments.double_well import GRID, DoubleWell, simulate
from dashpot.experiments.intervals import compared, mean_interval
from dashpot.experiments.progress import report_progress, tracked
from dashpot.experiments.result import Finding
from dashpot.optimizers.torch_compatible import SGD
from dashpot.schedules import CosineRestarts

RATES = (0.01, 0.02, 0.04)
TILTED = DoubleWell(tilt=0.03)
UNEVEN = DoubleWell(slope=0.5)
TOLERANCE = 0.05
"""Relative tolerance: the density of the diffusion is the limit of small rates, and lr h reaches .08 in the wells."""


def gibbs_findings(seeds: Sequence[int], quick: bool, claim: int) -> tuple[list[Finding], dict[str, Any]]:
    """Compare the populations of the wells and the escape times with the Gibbs form."""
    copies, burn_in, samples, every = (20, 100, 2, 10) if quick else (500, 12000, 60, 100)
    findings, data = [], {}
    for lr in tracked(RATES, "double well"):
        sample = simulate(TILTED, lr, seeds, copies=copies, burn_in=burn_in, samples=samples, every=every)
        heat = lr * TILTED.noise / 2
        shares = (sample.weights > 0).double().mean(1).tolist()
        statement = f"share of weights in the shallower well, T = {heat:g}"
        predicted = TILTED.share_right(temperature=heat)
        findings.append(compared(f"share-{heat:g}", statement, shares, predicted, tolerance=TOLERANCE, claim=claim))
        escapes = sample.escape_rate.tolist()
        statement = f"crossings of the barrier of about 0.25 per unit of the summed rate, T = {heat:g}"
        predicted = 1 / TILTED.escape_time(heat)
        limits = "the time between steps counts: arrivals are seen only at steps" if lr == max(RATES) else ""
        findings.append(
            compared(f"escape-{heat:g}", statement, escapes, predicted, tolerance=TOLERANCE, limits=limits, claim=claim)
        )
        counts = torch.histc(sample.weights, 28, -2.1, 2.1) / (sample.weights.numel() * 0.15)
        middles = -2.1 + 0.15 * (torch.arange(28) + 0.5)
        data[f"{heat:g}"] = {
            "x": middles.tolist(),
            "density": counts.tolist(),
            "grid": GRID[900:5101:80].tolist(),
            "gibbs": TILTED.gibbs(heat)[900:5101:80].tolist(),
            "escape": [*mean_interval(escapes), predicted],
        }
    return findings, data


def uneven_noise_finding(seeds: Sequence[int], quick: bool, claim: int) -> Finding:
    """Measure the populations of equally deep wells with different gradient noise."""
    report_progress("uneven noise")
    copies, burn_in, samples, every = (20, 100, 2, 10) if quick else (400, 5000, 50, 100)
    lr = 0.02
    sample = simulate(UNEVEN, lr, seeds, copies=copies, burn_in=burn_in, samples=samples, every=every)
    shares = (sample.weights > 0).double().mean(1).tolist()
    ratio = float(UNEVEN.variance(GRID[4000]) / UNEVEN.variance(GRID[2000]))
    statement = (
        f"share of weights in the well with {ratio:.2g} of the other's noise variance, equal depths (Gibbs: 0.5; "
        "prediction of the diffusion with varying noise)"
    )
    limits = "the Gibbs form requires the same gradient noise everywhere; otherwise low noise attracts the weights"
    predicted = UNEVEN.share_right(lr=lr)
    return compared("uneven-noise", statement, shares, predicted, tolerance=TOLERANCE, limits=limits, claim=claim)


def cycle_findings(seeds: Sequence[int], quick: bool, claim: int) -> list[Finding]:
    """Measure how often the wells of successive snapshots differ, for a cycling and a constant low rate."""
    report_progress("cycling rate")
    copies, cycles, length = (20, 3, 40) if quick else (500, 6, 1000)
    start = -torch.ones(len(seeds), copies, dtype=torch.float64)
    well = DoubleWell()
    changed = {}
    for name, lr, schedule in (("cycling", 0.06, CosineRestarts(length, floor=0.02)), ("cold", 0.0012, None)):
        draws = normal_noise("cycles", seeds, copies)
        scale = well.noise**0.5
        path = sample_path(
            partial(SGD, lr=lr, schedule=schedule),
            lambda w: well.gradient(w) + scale * next(draws),  # noqa: B023  # called within the iteration
            start,
            cycles * length,
            every=length,
        )[1:]
        changed[name] = (path[1:] > 0).ne(path[:-1] > 0).double().mean((0, 2)).tolist()
    statement = "share of successive snapshots in different wells, rate cycling between 0.06 and 0.0012"
    findings = [compared("cycling-wells", statement, changed["cycling"], 0.5, tolerance=TOLERANCE, claim=claim)]
    mean, low, high = mean_interval(changed["cold"])
    statement = "share of successive snapshots in different wells, constant rate 0.0012"
    return [*findings, Finding("cold-wells", statement, mean, low, high, None, mean < 0.01, claim=claim)]
