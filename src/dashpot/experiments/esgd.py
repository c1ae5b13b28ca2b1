"""ESGD-M against plain ESGD, part by part, and the recommended settings of quasi-hyperbolic momentum."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from dashpot.experiments import esgd_figures as figures
from dashpot.experiments.esgd_runs import STEPS, measured
from dashpot.experiments.intervals import geometric_interval, verdict_of
from dashpot.experiments.result import Claim, Finding, Outcome, Panel
from dashpot.experiments.training_study import interval_finding, joint_differences
from dashpot.experiments.tuned_sweep import TUNING

if TYPE_CHECKING:
    from dashpot.stats import Interval

CLAIMS = (
    Claim("ESGD-M, overview", "Quasi-hyperbolic momentum considerably improves the performance over plain ESGD."),
    Claim(
        "ESGD-M, momentum",
        "The recommended settings of quasi-hyperbolic momentum, beta .999 and v .7, accelerate convergence.",
    ),
)
REASON = (
    "At tuned rates, ESGD-M ends at about half the training loss of plain ESGD. Neither its warm-up nor the moving "
    "average of the products alone accounts for the improvement, and its momentum alone does so in part. "
    "Quasi-hyperbolic momentum with the recommended settings converges faster than plain descent, but not "
    "significantly faster than averaged momentum, and more slowly than Nesterov momentum, which is the default of "
    "ESGD-M."
)
PARTS = ("momentum", "warm-up", "average", "ESGD-M version 2", "ESGD-M EMA", "ESGD-M QHM")
"""Methods that are compared with plain ESGD besides ESGD-M."""
FIRST_ORDER = ("SGD", "EMA", "Nesterov", "QHM")
PAIRS = {
    "ESGD-M QHM": ("ESGD-M EMA", "ESGD-M"),
    "QHM": ("SGD", "EMA", "Nesterov"),
}
"""For each use of the recommended settings, the methods with which they are compared."""
NESTEROV = ("ESGD-M", "Nesterov")
"""Methods with Nesterov momentum, over which no improvement is claimed."""
JOINT = "the interval of this pair alone; the joint interval of all pairs includes 1"
Data = Mapping[str, Any]
Differences = Mapping[tuple[str, str], "Interval"]


def run(seeds: Sequence[int], *, quick: bool) -> Outcome:
    """Compare ESGD-M, its parts and settings of its momentum with plain ESGD at tuned rates."""
    runs = measured(seeds, quick=quick)
    second = {name: item for name, item in runs.items() if name not in FIRST_ORDER}
    first = {name: item for name, item in runs.items() if name in FIRST_ORDER}
    losses = {**_log_losses(second), **_log_losses(first)}
    accuracies = joint_differences({name: item["accuracy"] for name, item in second.items()})
    findings = [
        *_score_findings(runs),
        *_improvement_findings(runs, losses, accuracies),
        *_quasi_hyperbolic_findings(runs, losses),
    ]
    data = {
        "runs": runs,
        "ratios": {item.name: [item.measured, item.low, item.high] for item in findings if item.name in figures.RATIOS},
    }
    return Outcome(
        claims=CLAIMS,
        findings=tuple(findings),
        verdict=verdict_of(findings),
        reason=REASON,
        panels=(
            Panel("rates", "Loss against the learning rate", figures.RATES_NOTE, partial(figures.rates, data)),
            Panel("ratios", "Loss at tuned rates", figures.RATIOS_NOTE, partial(figures.ratios, data)),
        ),
        settings={
            "digits": f"64-32-10 tanh network, batch 50, {STEPS} steps, constant rate, four rates per decade",
            "products": "in the first 20 steps and every 10 steps, random signs",
            "tuning": f"the rate with the smallest training loss of {len(TUNING)} other seeds",
            "intervals": "95 %, of each pair of methods alone; limits state where the joint interval of all pairs of "
            "second-order methods, or of all pairs of first-order methods, includes 1; the difference of accuracies is "
            "joint",
        },
        data=data,
    )


def _log_losses(runs: Data) -> Differences:
    """Return the differences of the logarithms of the losses of all pairs, or none for a single method."""
    logs = {name: [math.log(value) for value in item["loss"]] for name, item in runs.items()}
    return joint_differences(logs) if len(logs) > 1 else {}


def _score_findings(runs: Data) -> list[Finding]:
    """Report the training loss of every method at its tuned rate."""
    rows = []
    for name, item in runs.items():
        statement = f"training loss, {item['words']}, lr {item['rate']:.3g}"
        claim = 1 if name in FIRST_ORDER else 0
        rows.append(Finding(f"loss-{name}", statement, *geometric_interval(item["loss"]), claim=claim))
    return rows


def _improvement_findings(runs: Data, losses: Differences, accuracies: Differences) -> list[Finding]:
    """Compare ESGD-M and plain ESGD with single parts of it with plain ESGD."""
    rows = [_ratio_finding("ratio-ESGD-M", runs, losses, "ESGD-M", "plain", claim=0)]
    interval = accuracies["ESGD-M", "plain"]
    statement = "accuracy of ESGD-M minus that of plain ESGD"
    rows.append(interval_finding("accuracy-ESGD-M", statement, interval, holds=interval.high > 0))
    for name in PARTS:
        if name in runs:
            rows.append(_ratio_finding(f"ratio-{name}", runs, losses, name, "plain", claim=0, claimed=False))
    return rows


def _quasi_hyperbolic_findings(runs: Data, losses: Differences) -> list[Finding]:
    """Compare the recommended settings with averaged momentum and Nesterov momentum."""
    rows = []
    for name, others in PAIRS.items():
        for other in others:
            if name in runs and other in runs:
                claimed = other not in NESTEROV
                rows.append(_ratio_finding(f"{name} over {other}", runs, losses, name, other, claim=1, claimed=claimed))
    return rows


def _ratio_finding(
    name: str, runs: Data, losses: Differences, first: str, second: str, *, claim: int, claimed: bool = True
) -> Finding:
    """Return the ratio of training losses with the interval of this pair; a claimed improvement needs a ratio below 1.

    An improvement that the joint interval of all pairs does not confirm has a limit.
    """
    pairs = zip(runs[first]["loss"], runs[second]["loss"], strict=True)
    ratio = geometric_interval([a / b for a, b in pairs])
    limits = JOINT if claimed and ratio.high < 1 <= math.exp(losses[first, second].high) else ""
    statement = f"training loss over that of {runs[second]['words']}: {runs[first]['words']}"
    return Finding(name, statement, *ratio, None, ratio.high < 1 or not claimed, limits, claim)
