"""Paths of plain descent, momentum, RMSprop and Adam in a ravine and in Rosenbrock's valley, and rare minima."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from dashpot.experiments import paths_figures as figures
from dashpot.experiments import paths_ravine
from dashpot.experiments.critical_points import MINIMA, find_critical_points, minima_share
from dashpot.experiments.intervals import compared, mean_interval, verdict_of
from dashpot.experiments.progress import tracked
from dashpot.experiments.result import Claim, Finding, Outcome, Panel

CLAIMS = (
    Claim(
        "tutorial, gradient descent with momentum",
        "Momentum smooths the path: plain descent zigzags across a ravine, momentum less and with fewer steps, and a "
        "larger momentum more so.",
    ),
    Claim(
        "tutorial, RMSProp",
        "RMSProp evens out the steps across a ravine, where the gradient is large, and along it, where it is small.",
    ),
    Claim(
        "tutorial, local optima",
        "In a high-dimensional space, the chance of a local minimum is very low, and a saddle is more likely.",
    ),
)
REASON = (
    "Momentum oscillates more slowly across the ravine and reaches the minimum in fewer steps than plain descent at "
    "its best rate, but the larger momentum is not always the faster one. RMSprop and Adam take even steps and do not "
    "depend on the condition number of a ravine along the axes; in a rotated ravine they do. In random "
    "Gaussian functions, the share of minima among the critical points at least halves with every dimension."
)
DIMENSIONS = (1, 2, 3, 4, 5, 6)


def run(seeds: Sequence[int], *, quick: bool) -> Outcome:
    """Measure oscillation and steps of paths, and the share of minima among critical points."""
    found = paths_ravine.searched(seeds, quick=quick)
    shares = _minima_shares(seeds, 2_000 if quick else 100_000)
    findings = [
        *paths_ravine.crossing_findings(seeds, 40 if quick else 200),
        *paths_ravine.speed_findings(found),
        *paths_ravine.evenness_findings(seeds, found),
        *_share_findings(shares),
        *([] if quick else _search_findings(seeds)),
    ]
    data = {
        "ravine": paths_ravine.ravine_data(seeds[0], found),
        "minima": {str(n): list(mean_interval(values)) for n, values in shares.items()},
    }
    return Outcome(
        claims=CLAIMS,
        findings=tuple(findings),
        verdict=verdict_of(findings),
        reason=REASON,
        panels=_panels(data),
        settings={
            "ravine": f"eigenvalues {paths_ravine.EIGENVALUES}, start {paths_ravine.START} -+ 10 %",
            "targets": f"loss {paths_ravine.TARGET} in the ravine, {paths_ravine.ROSENBROCK_TARGET} in the valley",
            "critical points": "isotropic Gaussian random functions, all heights",
        },
        data=data,
    )


def _panels(data: dict[str, Any]) -> tuple[Panel, ...]:
    return (
        Panel("ravine", "Paths in a ravine", figures.RAVINE_NOTE, partial(figures.ravine, data)),
        *(
            [Panel("valley", "Paths in Rosenbrock's valley", figures.VALLEY_NOTE, partial(figures.valley, data))]
            if data["ravine"]["Rosenbrock"]
            else []
        ),
        Panel(
            "minima", "Minima among the critical points", figures.MINIMA_NOTE, partial(figures.minima, data), claim=2
        ),
    )


def _minima_shares(seeds: Sequence[int], samples: int) -> dict[int, list[float]]:
    return {n: [minima_share(n, samples, seed) for seed in seeds] for n in tracked(DIMENSIONS, "critical points")}


def _share_findings(shares: dict[int, list[float]]) -> list[Finding]:
    rows: list[Finding] = []
    for n, values in shares.items():
        statement = f"share of minima, dimension {n}"
        if n in MINIMA:
            rows.append(compared(f"minima-{n}", statement, values, MINIMA[n], tolerance=0.02, claim=2))
        else:
            lower = mean_interval(values).high < mean_interval(shares[n - 1]).low
            rows.append(Finding(f"minima-{n}", statement, *mean_interval(values), None, lower, claim=2))
    return rows


def _search_findings(seeds: Sequence[int]) -> list[Finding]:
    """Return shares of minima among critical points that Newton's method finds."""
    rows = []
    for n in tracked((2, 3), "Newton searches in dimension"):
        shares = [find_critical_points(n, 3000, seed).share for seed in seeds]
        statement = f"share of minima found by Newton's method, dimension {n}"
        rows.append(compared(f"found-{n}", statement, shares, MINIMA[n], tolerance=0.02, claim=2))
    return rows
