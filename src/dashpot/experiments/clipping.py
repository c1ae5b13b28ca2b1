"""Gradient clipping: an exploding recurrent network, diagnosed and cured, and a step across a cliff."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

from dashpot.experiments import clipping_figures as figures
from dashpot.experiments.cliff import LR as CLIFF_LR
from dashpot.experiments.cliff import START, descend_the_cliff
from dashpot.experiments.intervals import compared, mean_interval, verdict_of
from dashpot.experiments.progress import report_progress, tracked
from dashpot.experiments.recurrent_net import CONSTANT_LOSS, LENGTH, Training, angles, first_nonfinite, growth, train
from dashpot.experiments.result import Claim, Finding, Outcome, Panel

SCALE = 1.2
LR = 0.2
CLIPPED: Mapping[str, tuple[str, float, dict[str, float]]] = {
    "none": ("no clipping", LR, {}),
    "none-low": ("no clipping", LR / 100, {}),
    "norm": ("max_norm 0.1", LR, {"max_norm": 0.1}),
    "value": ("clip_value 0.01", LR, {"clip_value": 0.01}),
}
"""For each run: its description, learning rate and options."""
NETS = 4
"""Networks per seed for the share of runs that diverge."""
_SOURCE = "tutorial, gradient clipping"
CLAIMS = (
    Claim(_SOURCE, "Gradients can explode; a check of each parameter's gradient for nan and inf shows where."),
    Claim(_SOURCE, "Clipping gradients that exceed a threshold cures the explosion."),
    Claim(_SOURCE, "Effect of clipping at a cliff of the loss: the step stays short."),
    Claim(_SOURCE, "Each element is clipped to the threshold (clip by value), or the norm is (clip by norm)."),
)
REASON = (
    "Without clipping, most networks diverge, also at a hundredth of the rate; with either clipping none does, and the "
    "loss falls below that of the best constant. Clipping the norm keeps the direction of the gradient, while clipping "
    "elements changes it."
)


def run(seeds: Sequence[int], *, quick: bool) -> Outcome:
    """Measure how gradients explode, how clipping changes training, and a step across a cliff."""
    diagnosis, growth_data = _diagnosis_findings(seeds, quick)
    cure, training_data = _cure_findings(seeds, quick)
    cliff, cliff_data = _cliff_findings(quick)
    findings = (*diagnosis, *cure, *cliff, *_direction_findings(seeds))
    data = {"growth": growth_data, "training": training_data, "cliff": cliff_data}
    return Outcome(
        claims=CLAIMS,
        findings=findings,
        verdict=verdict_of(findings),
        reason=REASON,
        panels=(
            Panel("growth", "Gradient through time", figures.GROWTH_NOTE, partial(figures.growth, data)),
            Panel(
                "training",
                "Training with and without clipping",
                figures.TRAINING_NOTE,
                partial(figures.training, data),
                claim=1,
            ),
            Panel("cliff", "Step across a cliff", figures.CLIFF_NOTE, partial(figures.cliff, data), claim=2),
        ),
        settings={
            "network": f"16 ReLU units, {LENGTH} steps, recurrent scale {SCALE}",
            "task": "adding problem, batch 32",
            "optimizer": f"SGD, momentum .9, lr {LR}",
            "clipping": "max_norm 0.1 or clip_value 0.01",
            "networks per seed": NETS,
            "cliff": f"w sigmoid(x) + b, 50 steps, from {START}, lr {CLIFF_LR}",
        },
        data=data,
    )


def _diagnosis_findings(seeds: Sequence[int], quick: bool) -> tuple[list[Finding], dict[str, Any]]:
    """Measure the growth of the gradient through time, and where it becomes non-finite."""
    report_progress("gradient through time")
    count = 2 if quick else 50
    sizes = [[growth(_net(seed, k), SCALE) for k in range(count)] for seed in seeds]
    factors = [sum(net[-1] ** (1 / (LENGTH - 1)) for net in nets) / count for nets in sizes]
    statement = f"factor per step by which the gradient grows back through time, scale {SCALE}"
    found = [
        compared("growth", statement, factors, SCALE, tolerance=0.05)
    ]  # not all nets have half of the units active
    steps = 5 if quick else 150
    stops = [[first_nonfinite(_net(seed, k), SCALE, steps, LR) for k in range(1 if quick else NETS)] for seed in seeds]
    shares = [sum(stop is not None for stop in group) / len(group) for group in stops]
    mean, low, high = mean_interval(shares)
    statement = f"share of networks that nonfinite='raise' stops within {steps} steps, naming the parameters"
    found.append(Finding("named", statement, mean, low, high, None, mean > 0.5))
    every = [net for nets in sizes for net in nets]
    quartiles = [statistics.quantiles([net[k] for net in every], n=4, method="inclusive") for k in range(LENGTH)]
    rows = zip(("lower", "median", "upper"), zip(*quartiles, strict=True), strict=True)
    return found, {"back": list(range(LENGTH)), **{name: list(values) for name, values in rows}}


def _net(seed: int, index: int) -> int:
    """Return the seed of a network of a seed of the experiment."""
    return seed * 1000 + index


def _cure_findings(seeds: Sequence[int], quick: bool) -> tuple[list[Finding], dict[str, Any]]:
    """Measure the share of diverged networks and the loss, with and without clipping."""
    short, long = (3, 5) if quick else (150, 500)
    nets = 1 if quick else NETS
    found, data = [], {}
    for name, (words, lr, options) in tracked(CLIPPED.items(), "clipping"):
        results = [[train(_net(seed, k), SCALE, short, lr, **options) for k in range(nets)] for seed in seeds]
        shares = [sum(result.diverged for result in group) / nets for group in results]
        mean, low, high = mean_interval(shares)
        statement = f"share of networks that diverge within {short} steps, {words}, lr {lr:g}"
        clipped = bool(options)
        holds = mean == 0 if clipped else mean > 0.5
        found.append(Finding(f"diverged-{name}", statement, mean, low, high, None, holds, claim=1))
        if clipped:
            runs = [train(_net(seed, 0), SCALE, long, lr, **options) for seed in seeds]
            found.append(_loss_finding(name, words, lr, runs, long))
        else:
            runs = [group[0] for group in results]
        data[name] = {"name": f"{words}, lr {lr:g}", "norms": _median_norms(runs), "losses": _median_losses(runs)}
    return found, data


def _loss_finding(name: str, words: str, lr: float, runs: Sequence[Training], steps: int) -> Finding:
    mean, low, high = mean_interval([run.final for run in runs])
    statement = f"loss after {steps} steps, {words}, lr {lr:g} (best constant prediction: {CONSTANT_LOSS:.3f})"
    limits = "" if high < CONSTANT_LOSS else "clipping prevents divergence, but not every network learns the task"
    return Finding(f"loss-{name}", statement, mean, low, high, None, True, limits, 1)


def _median_losses(runs: Sequence[Training]) -> list[float | None]:
    return _medians([run.losses for run in runs])


def _median_norms(runs: Sequence[Training]) -> list[float | None]:
    return _medians([run.norms for run in runs])


def _medians(series: Sequence[Sequence[float]]) -> list[float | None]:
    """Return the median over runs, at every fifth step; None from the step on at which the median run has ended."""
    result: list[float | None] = []
    for step in range(0, max(map(len, series), default=0), 5):
        values = sorted(run[step] if step < len(run) else math.inf for run in series)
        median = values[len(values) // 2]
        result.append(median if math.isfinite(median) else None)
    return result


def _cliff_findings(quick: bool) -> tuple[list[Finding], dict[str, Any]]:
    """Compare the longest step and the lowest loss of descent across the cliff, with and without clipping."""
    report_progress("cliff")
    steps = 10 if quick else 200
    found, data = [], {}
    for name, words, options in (("none", "no clipping", {}), ("norm", "max_norm 0.1", {"max_norm": 0.1})):
        path = descend_the_cliff(steps, **options)
        longest = max(math.dist(a[:2], b[:2]) for a, b in pairwise(path))
        predicted = CLIFF_LR * 0.1 if options else None
        holds = longest <= CLIFF_LR * 0.1 * 1.001 if options else longest > 1
        statement = f"longest step of {steps} across the cliff, {words}"
        found.append(Finding(f"step-{name}", statement, longest, longest, longest, predicted, holds, claim=2))
        data[name] = {"w": [p[0] for p in path], "b": [p[1] for p in path], "loss": [p[2] for p in path]}
    return found, data


def _direction_findings(seeds: Sequence[int]) -> list[Finding]:
    """Measure the cosine between the gradient and the gradient with clamped elements."""
    cosines = [angles(_net(seed, 0), SCALE, 0.01) for seed in seeds]
    mean, low, high = mean_interval(cosines)
    statement = "cosine between the first gradient and the one clipped by value at 0.01 (by norm: 1)"
    limits = "clipping by value changes the direction"
    return [Finding("cosine", statement, mean, low, high, None, True, limits, 3)]
