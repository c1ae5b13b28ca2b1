"""Plain descent, momentum and Adam on the digits, at a low rate and at the fastest rate of each."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from dashpot.experiments import three_optimizers_figures as figures
from dashpot.experiments.image_vectors import digit_images
from dashpot.experiments.intervals import verdict_of
from dashpot.experiments.progress import report_progress
from dashpot.experiments.result import Claim, Finding, Outcome, Panel
from dashpot.experiments.stacked_runs import TUNING_SEEDS, Plan, StackedRuns, maker, train
from dashpot.experiments.training_study import UNDECIDED, interval_finding, joint_differences

METHODS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "SGD": ("sgd", {}),
    "averaged momentum": ("qhm", {"pole": 0.9, "nu": 1.0}),
    "heavy ball": ("heavy-ball", {}),
    "Adam": ("adam", {}),
}
"""Method and settings by name: the tutorial's momentum is an average, torch's momentum is the heavy ball."""
RATES = {
    "SGD": (0.1, 0.3, 1.0, 3.0),
    "averaged momentum": (0.1, 0.3, 1.0, 3.0),
    "heavy ball": (0.01, 0.03, 0.1, 0.3),
    "Adam": (0.003, 0.01, 0.03, 0.1),
}
"""Rates among which the tuning seeds choose the fastest one."""
LOW = 0.01
"""Low rate of all methods."""
TARGET = 0.1
"""Training loss that ends the measured time."""
MARGIN = 0.02
"""Largest irrelevant difference of accuracy."""

CLAIMS = (
    Claim("tutorial, experiment results", "Momentum helps, but makes little difference at a low learning rate."),
    Claim("tutorial, experiment results", "Adam converges faster than SGD and momentum."),
    Claim("tutorial, experiment results", "On simple data sets, all three converge to good results."),
)


def run(seeds: Sequence[int], *, quick: bool) -> Outcome:
    """Train networks on the digits at a low rate, and at the rate that reaches the target in the fewest steps."""
    return outcome_of(measure(seeds, quick=quick))


def measure(seeds: Sequence[int], *, quick: bool) -> dict[str, Any]:
    """Return the results of all runs as plain data."""
    plan = Plan(digit_images(), tuple(seeds), epochs=2 if quick else 12, evaluations=8 if quick else 48)
    found: dict[str, Any] = {"data": plan.data.remark, "steps": plan.steps, "low": {}, "fast": {}}
    for name, (method, options) in METHODS.items():
        rates = RATES[name][1:2] if quick else RATES[name]
        report_progress(f"{name}, low rate")
        found["low"][name] = _plain(train(plan, maker(method, LOW, **options)), LOW)
        runs = []
        for number, lr in enumerate(rates, start=1):
            report_progress(f"{name}, rate {number}/{len(rates)}")
            runs.append(train(plan, maker(method, lr, **options)))
        chosen = min(range(len(runs)), key=lambda index: _tuning_steps(runs[index]))
        found["fast"][name] = _plain(runs[chosen], rates[chosen])
    return found


def _plain(runs: StackedRuns, rate: float) -> dict[str, Any]:
    count = len(TUNING_SEEDS)
    losses = [values[count:] for values in runs.losses]
    times = [steps_to(runs.steps, [values[k] for values in losses]) for k in range(len(losses[0]))]
    return {"rate": rate, "test": runs.test, "steps": runs.steps, "losses": losses, "time": times}


def _tuning_steps(runs: StackedRuns) -> float:
    """Return the mean steps to the target of the tuning seeds."""
    count = len(TUNING_SEEDS)
    return sum(steps_to(runs.steps, [values[k] for values in runs.losses]) for k in range(count)) / count


def steps_to(steps: Sequence[int], losses: Sequence[float], target: float = TARGET) -> float:
    """Return the number of steps until the loss first reaches the target, with linear interpolation of its logarithm.

    Args:
        steps: Steps of the evaluations, from 0.
        losses: Positive losses at these steps.
        target: Loss to reach.

    Returns:
        The number of steps; the number of all steps, a lower bound, if the target is not reached.

    >>> steps_to([0, 10, 20], [1.0, 0.4, 0.1], target=0.2), steps_to([0, 10], [1.0, 0.5], target=0.2)
    (15.0, 10.0)
    """
    for index in range(1, len(steps)):
        if losses[index] <= target:
            before, after = math.log(losses[index - 1] / target), math.log(losses[index] / target)
            share = before / (before - after) if before > 0 else 1.0
            return steps[index - 1] + share * (steps[index] - steps[index - 1])
    return float(steps[-1])


def outcome_of(found: Mapping[str, Any]) -> Outcome:
    """Return the outcome for the results of `measure`."""
    findings = [*_low_findings(found["low"]), *_time_findings(found), *_result_findings(found["fast"])]
    return Outcome(
        claims=CLAIMS,
        findings=tuple(findings),
        verdict=verdict_of(findings),
        reason=reason(findings),
        panels=(
            Panel("low", "At a low rate and at the fastest rate", figures.LOSSES_NOTE, partial(figures.losses, found)),
            Panel("time", "Steps to the target", figures.TIMES_NOTE, partial(figures.times, found), claim=1),
        ),
        settings={
            "data": found["data"],
            "network": "one hidden layer of 32 tanh units, batches of 50",
            "steps": found["steps"],
            "low rate": LOW,
            "fastest rates": {name: item["rate"] for name, item in found["fast"].items()},
            "target of the training loss": TARGET,
            "margin of accuracy": MARGIN,
        },
        data=dict(found),
    )


def _low_findings(low: Mapping[str, Any]) -> list[Finding]:
    """Compare the accuracies with plain descent at the same low rate."""
    differences = joint_differences({name: item["test"] for name, item in low.items()})
    rows = []
    for name in list(METHODS)[1:]:
        interval = differences[name, "SGD"]
        statement = f"accuracy of {name} minus that of SGD, both at the rate {LOW:g}"
        inside = interval.inside(-MARGIN, MARGIN)
        if name == "averaged momentum":
            limits = "" if inside or abs(interval.estimate) > MARGIN else UNDECIDED
            rows.append(
                interval_finding(
                    "low-average", statement, interval, holds=abs(interval.estimate) <= MARGIN, limits=limits
                )
            )
        elif name == "heavy ball":
            limits = "" if inside else "the heavy ball has 10 times the effective rate; the statement is on the average"
            rows.append(interval_finding("low-heavy-ball", statement, interval, limits=limits))
        else:
            rows.append(interval_finding("low-adam", statement, interval, holds=interval.low > 0))
    return rows


def _time_findings(found: Mapping[str, Any]) -> list[Finding]:
    """Return ratios of steps to the target, each method at its own fastest rate and at the low rate."""
    rows = []
    for key, words in (("fast", "each at its fastest rate"), ("low", f"both at the rate {LOW:g}")):
        times = {name: item["time"] for name, item in found[key].items()}
        differences = joint_differences({name: [math.log(t) for t in values] for name, values in times.items()})
        for name in list(METHODS)[:-1]:
            low, mean, high = (
                math.exp(value)
                for value in (
                    differences[name, "Adam"].low,
                    differences[name, "Adam"].estimate,
                    differences[name, "Adam"].high,
                )
            )
            missed = max(times[name]) >= found["steps"]
            limits = (
                f"at least: {name} has not reached the target at the end"
                if missed
                else UNDECIDED
                if low <= 1 <= high
                else ""
            )
            statement = f"steps to the training loss {TARGET:g}, {name} over Adam, {words}"
            rows.append(Finding(f"time-{key}-{name}", statement, mean, low, high, None, mean > 1, limits, claim=1))
    return rows


def _result_findings(fast: Mapping[str, Any]) -> list[Finding]:
    """Compare the accuracies at the end with that of Adam."""
    differences = joint_differences({name: item["test"] for name, item in fast.items()})
    rows = []
    for name in list(METHODS)[:-1]:
        interval = differences[name, "Adam"]
        statement = f"final accuracy of {name} minus that of Adam, each at its fastest rate"
        limits = "" if interval.inside(-MARGIN, MARGIN) or abs(interval.estimate) > MARGIN else UNDECIDED
        holds = interval.estimate > -MARGIN
        rows.append(interval_finding(f"end-{name}", statement, interval, holds=holds, limits=limits, claim=2))
    return rows


def reason(findings: Sequence[Finding]) -> str:
    """Return sentences on the measured differences and ratios."""
    by_name = {item.name: item for item in findings}
    ratios = ", ".join(f"{by_name[f'time-fast-{name}'].measured:.2f} ({name})" for name in list(METHODS)[:-1])
    average, heavy = (by_name[name].measured for name in ("low-average", "low-heavy-ball"))
    return (
        f"At the rate {LOW:g}, averaged momentum changes the accuracy by {average:+.3f} and the heavy ball, with 10 "
        f"times the effective rate, by {heavy:+.3f}. At their fastest rates, the other methods need these multiples of "
        f"Adam's steps: {ratios}."
    )
