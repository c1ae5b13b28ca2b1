"""Sensitivity of optimizers to the learning rate, and of Adam to its other settings."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from dashpot.experiments import lr_sensitivity_figures as figures
from dashpot.experiments.image_vectors import clothes_or_digits, digit_images
from dashpot.experiments.intervals import mean_interval, verdict_of
from dashpot.experiments.result import Claim, Finding, Outcome, Panel
from dashpot.experiments.stacked_runs import Plan, StackedRuns, best_rate, maker, over_rates, train
from dashpot.experiments.training_study import UNDECIDED, interval_finding, joint_differences

CENTRES = {
    "sgd": 0.3,
    "heavy-ball": 0.03,
    "nag": 0.03,
    "rmsprop": 0.003,
    "adam": 0.01,
    "adamw": 0.01,
    "autosgm-1": 0.03,
}
"""Rates in the middle of the range of each method."""
FACTORS = tuple(10.0 ** (k / 2) for k in range(-4, 4))
"""Factors of the rates, from 1/100 to 31.6 in half decades."""
MARGIN = 0.02
"""Accuracy that a rate may lose to the best one."""
UNTUNED = {"adam": 1e-3, "sgd": 1e-3, "rmsprop": 1e-2}
"""Default rates of torch.optim."""
CHANGES: Mapping[str, Mapping[str, Any]] = {
    "defaults": {},
    "beta1 = 0.5": {"betas": (0.5, 0.999)},
    "beta1 = 0.95": {"betas": (0.95, 0.999)},
    "beta2 = 0.9": {"betas": (0.9, 0.9)},
    "beta2 = 0.9999": {"betas": (0.9, 0.9999)},
    "eps = 1e-5": {"eps": 1e-5},
    "eps = 1e-3": {"eps": 1e-3},
}
"""Settings of Adam at its chosen rate."""
TYPICAL_RATES = (1e-3, 1e-2)
TYPICAL_DECAY = 1e-4

CLAIMS = (
    Claim("tutorial, advantages of Adam", "Adam works well with little tuning of hyperparameters, except the rate."),
    Claim("tutorial, advantages of Adam", "Our reading for the rate: Adam tolerates a wider range of rates."),
    Claim("tutorial, RMSProp", "Typical values of RMSProp: learning rates 1e-3 to 1e-2, weight decay 1e-5 to 1e-4."),
)


def run(seeds: Sequence[int], *, quick: bool) -> Outcome:
    """Train networks at rates over four decades, and measure the range of good rates."""
    return outcome_of(measure(seeds, quick=quick))


def plans(seeds: Sequence[int], *, quick: bool) -> list[Plan]:
    """Return the plans of the data sets; only that of the digits if Fashion-MNIST is not available, or if `quick`."""
    first = Plan(digit_images(), tuple(seeds), epochs=1 if quick else 12)
    clothes = clothes_or_digits(quick=quick)
    return [first] if clothes.name == "digits" else [first, Plan(clothes, tuple(seeds), batch=250, epochs=1)]


def measure(seeds: Sequence[int], *, quick: bool) -> dict[str, Any]:
    """Return, by data set, the results of all methods and settings as plain data."""
    found: dict[str, Any] = {}
    for plan in plans(seeds, quick=quick):
        methods = {method: _method(plan, method, quick=quick) for method in CENTRES}
        lr = methods["adam"]["rates"][methods["adam"]["best"]]
        changes = {
            name: train(plan, maker("adam", lr, **given)).test
            for name, given in ({"defaults": {}} if quick else CHANGES).items()
        }
        decays = methods["rmsprop"]["rates"][methods["rmsprop"]["best"]]
        decayed = train(plan, maker("rmsprop", decays, weight_decay=TYPICAL_DECAY)).test
        untuned = {method: train(plan, maker(method, rate)).test for method, rate in UNTUNED.items()}
        found[plan.data.name] = {
            "data": plan.data.remark,
            "steps": plan.steps,
            "methods": methods,
            "changes": changes,
            "decay": decayed,
            "untuned": untuned,
        }
    return found


def _method(plan: Plan, method: str, *, quick: bool) -> dict[str, Any]:
    """Return rates, accuracies by rate and seed, and the index of the chosen rate."""
    rates = [CENTRES[method] * factor for factor in FACTORS[3:6] if quick] or [CENTRES[method] * f for f in FACTORS]
    runs: list[StackedRuns] = over_rates(plan, method, rates)
    return {"rates": rates, "test": [item.test for item in runs], "best": best_rate(runs)}


def outcome_of(found: Mapping[str, Any]) -> Outcome:
    """Return the outcome for the results of `measure`."""
    findings = [item for name in found for item in _findings(name, found[name])]
    return Outcome(
        claims=CLAIMS,
        findings=tuple(findings),
        verdict=verdict_of(findings),
        reason=reason(findings),
        panels=(
            Panel("curves", "Accuracy against the rate", figures.CURVES_NOTE, partial(figures.curves, found), claim=1),
            Panel("widths", "Range of good rates", figures.WIDTHS_NOTE, partial(figures.ranges, found), claim=1),
        ),
        settings={
            "data": {name: item["data"] for name, item in found.items()},
            "network": "one hidden layer of 32 tanh units",
            "steps": {name: item["steps"] for name, item in found.items()},
            "margin of good rates": MARGIN,
            "chosen rates": {
                f"{method}, {name}": f"{item['rates'][item['best']]:.3g}"
                for name, data in found.items()
                for method, item in data["methods"].items()
            },
        },
        data=dict(found),
    )


def width(rates: Sequence[float], scores: Sequence[float], best: int, margin: float = MARGIN) -> tuple[float, bool]:
    """Return the width in decades of the rates around the best one with scores within the margin.

    Scores are interpolated linearly in log10 of the rate.

    Args:
        rates: Increasing rates.
        scores: Score of each rate.
        best: Index of the best rate.
        margin: Largest loss of score.

    Returns:
        The width, and whether a limit is an end of the rates.

    >>> width([0.1, 1.0, 10.0, 100.0], [0.5, 0.9, 0.8, 0.2], 1, margin=0.1)
    (1.25, False)
    """
    least = scores[best] - margin
    places = [math.log10(rate) for rate in rates]
    ends, truncated = [], False
    for direction in (-1, 1):
        at = best
        while 0 <= at + direction < len(rates) and scores[at + direction] >= least:
            at += direction
        beyond = at + direction
        if not 0 <= beyond < len(rates):
            ends.append(places[at])
            truncated = True
        else:
            share = (scores[at] - least) / (scores[at] - scores[beyond])
            ends.append(places[at] + share * (places[beyond] - places[at]))
    return ends[1] - ends[0], truncated


def widths(methods: Mapping[str, Any]) -> dict[str, list[tuple[float, bool]]]:
    """Return the widths by method and seed."""
    return {
        name: [width(item["rates"], list(scores), item["best"]) for scores in zip(*item["test"], strict=True)]
        for name, item in methods.items()
    }


def _findings(name: str, found: Mapping[str, Any]) -> list[Finding]:
    return [*_setting_findings(name, found), *_width_findings(name, found), *_typical_findings(name, found)]


def _best(item: Mapping[str, Any]) -> list[float]:
    return item["test"][item["best"]]


def _setting_findings(name: str, found: Mapping[str, Any]) -> list[Finding]:
    """Return what changes of betas and eps, and the default rates of torch, lose to Adam or the method at its rate."""
    rows = []
    if len(found["changes"]) > 1:
        differences = joint_differences(found["changes"])
        for change in list(found["changes"])[1:]:
            interval = differences[change, "defaults"]
            statement = f"{name}: accuracy of Adam with {change} minus that with its defaults, at the chosen rate"
            limits = "" if interval.low > -MARGIN or interval.high < -MARGIN else UNDECIDED
            rows.append(
                interval_finding(
                    f"{name}-{change}", statement, interval, holds=interval.estimate > -MARGIN, limits=limits
                )
            )
    for method, scores in found["untuned"].items():
        pairs = zip(scores, _best(found["methods"][method]), strict=True)
        values = mean_interval(own - best for own, best in pairs)
        statement = (
            f"{name}: accuracy of {method} at torch's default rate {UNTUNED[method]:g} minus that at its chosen rate"
        )
        needed = method == "adam"
        limits = "the rate needs tuning, as the statement excludes it" if needed and values.low < -MARGIN else ""
        rows.append(Finding(f"{name}-untuned-{method}", statement, *values, limits=limits))
    return rows


def _width_findings(name: str, found: Mapping[str, Any]) -> list[Finding]:
    measured = widths(found["methods"])
    rows = []
    for method, values in measured.items():
        cut = any(truncated for _, truncated in values)
        statement = f"{name}: decades of rates within {MARGIN:g} of the accuracy at the chosen rate, {method}"
        limits = "at least: the range reaches an end of the rates" if cut else ""
        rows.append(
            Finding(f"{name}-width-{method}", statement, *mean_interval(w for w, _ in values), limits=limits, claim=1)
        )
    differences = joint_differences({method: [w for w, _ in values] for method, values in measured.items()})
    for method in measured:
        if method not in ("adam", "adamw"):
            interval = differences["adam", method]
            statement = f"{name}: decades of good rates, adam minus {method}"
            limits = UNDECIDED if interval.low <= 0 <= interval.high else ""
            rows.append(
                interval_finding(
                    f"{name}-adam-{method}", statement, interval, holds=interval.estimate > 0, limits=limits, claim=1
                )
            )
    return rows


def _typical_findings(name: str, found: Mapping[str, Any]) -> list[Finding]:
    item = found["methods"]["rmsprop"]
    rate = item["rates"][item["best"]]
    low, high = TYPICAL_RATES
    inside = low / 1.01 <= rate <= high * 1.01
    rows = [Finding(f"{name}-rmsprop-rate", f"{name}: chosen rate of RMSProp", rate, rate, rate, None, inside, claim=2)]
    change = mean_interval(own - best for own, best in zip(found["decay"], _best(item), strict=True))
    statement = f"{name}: accuracy of RMSProp with weight decay {TYPICAL_DECAY:g} minus that without"
    limits = "undecided: the 95 % interval contains the limit" if change.low < -MARGIN < change.high else ""
    rows.append(Finding(f"{name}-rmsprop-decay", statement, *change, None, change.mean > -MARGIN, limits, claim=2))
    return rows


def reason(findings: Sequence[Finding]) -> str:
    """Return sentences on the numbers of decided differences."""
    changes = [item for item in findings if item.claim == 0 and "untuned" not in item.name]
    kept = sum(item.holds for item in changes)
    pairs = [item for item in findings if item.claim == 1 and "-adam-" in item.name]
    wider, narrower = sum(item.low > 0 for item in pairs), sum(item.high < 0 for item in pairs)
    lost = [-item.measured for item in findings if item.name.endswith("untuned-adam")]
    return (
        f"At its chosen rate, {kept} of {len(changes)} changes of Adam's betas and eps cost less than {MARGIN:g} of "
        f"accuracy. The range of good rates of Adam is wider than that of another method in {wider} of {len(pairs)} "
        f"comparisons, narrower in {narrower}, and not separated in the others. Without tuning, at the rate 1e-3, Adam "
        f"loses up to {max(lost):.3f} of accuracy."
    )
