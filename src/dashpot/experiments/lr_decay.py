"""Decay of the learning rate: schedules of plain methods against Adam, the speed of cooling, and step drops."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from torch import nn, optim

from dashpot.experiments import lr_decay_figures as figures
from dashpot.experiments.annealing import share_in_deeper_well
from dashpot.experiments.image_vectors import clothes_or_digits, digit_images
from dashpot.experiments.intervals import mean_interval, verdict_of
from dashpot.experiments.progress import report_progress, tracked
from dashpot.experiments.result import Claim, Finding, Outcome, Panel
from dashpot.experiments.stacked_runs import TUNING_SEEDS, Plan, best_rate, maker, over_rates, train
from dashpot.experiments.training_study import UNDECIDED, interval_finding, joint_differences
from dashpot.optimizers.torch_compatible import SGD
from dashpot.schedules import Schedule
from dashpot.schedules.combine import Sequence as Phases
from dashpot.schedules.decay import Constant, Exponential

RATES = {
    "sgd": (0.3, 1.0, 3.0),
    "heavy-ball": (0.03, 0.1, 0.3),
    "adam": (0.003, 0.01, 0.03),
}
"""Equal numbers of rates for all methods; each schedule chooses its own."""
SCHEDULES = {"constant": None, "step": "step", "cosine": "cosine", "1/t": "inverse-time"}
MARGIN = 0.01
"""Largest difference of accuracy for methods that are as good as Adam, stated before the runs."""
COOLING = {"at once": 0.0, "1/8 of the run": 0.125, "1/2 of the run": 0.5, "the whole run": 1.0}
"""Share of the run in which the rate falls from `COOLING_RATE` by the factor `COOLING_FACTOR`, where it remains."""
COOLING_RATE, COOLING_FACTOR = 1.0, 0.1
WELL_STEPS = (100, 1000, 10000)
DROP_RATE, DROPS = 0.5, "step:drops=2,factor=0.5"

CLAIMS = (
    Claim(
        "tutorial, advantages of Adam",
        "With a decaying learning rate, SGD and SGD with momentum reach a performance similar to that of Adam.",
    ),
    Claim("slides, issues", "Reducing the learning rate slowly allows a better exploration of the parameters."),
    Claim(
        "slides, learning rate as temperature",
        "Each reduction of the rate by 2 lowers the training loss, for networks with and without skip connections.",
    ),
)


def run(seeds: Sequence[int], *, quick: bool) -> Outcome:
    """Compare schedules at their own rates, cool at different speeds, and drop the rate in two networks."""
    return outcome_of(measure(seeds, quick=quick))


def measure(seeds: Sequence[int], *, quick: bool) -> dict[str, Any]:
    """Return the results of all runs as plain data."""
    data = clothes_or_digits(quick=quick)
    clothes = data.name == "fashion-mnist"
    epochs = 1 if quick or clothes else 12
    plan = Plan(data, tuple(seeds), batch=250 if clothes else 50, epochs=epochs)
    return {
        "data": data.remark,
        "steps": plan.steps,
        "methods": {
            f"{method} {name}": _tuned(plan, method, schedule, quick=quick)
            for method in RATES
            for name, schedule in SCHEDULES.items()
        },
        "cooling": {name: _cooled(plan, share) for name, share in tracked_items(COOLING)},
        "wells": {
            str(steps): share_in_deeper_well(seeds, steps, 20 if quick else 400)
            for steps in tracked(WELL_STEPS[: 1 + (not quick) * 2], "double well, duration")
        },
        "drops": {name: _dropped(seeds, skips, quick=quick) for name, skips in (("without", False), ("with", True))},
    }


def tracked_items(shares: Mapping[str, float]) -> list[tuple[str, float]]:
    """Return the items of a mapping, with a progress report."""
    report_progress("cooling")
    return list(shares.items())


def _tuned(plan: Plan, method: str, schedule: str | None, *, quick: bool) -> dict[str, Any]:
    """Return the results of a method with a schedule at its chosen rate."""
    rates = RATES[method][1:2] if quick else RATES[method]
    runs = over_rates(plan, method, rates, schedule)
    chosen = best_rate(runs)
    return {"rate": rates[chosen], "test": runs[chosen].test, "loss": runs[chosen].loss}


def cooling_schedule(share: float, steps: int) -> Schedule:
    """Return the schedule that falls exponentially to `COOLING_FACTOR` in a share of the steps and remains there.

    >>> [round(factor, 4) for factor in cooling_schedule(0.5, 4).table(4)]
    [1.0, 0.3162, 0.1, 0.1]
    """
    falling = round(share * steps)
    if not falling:
        return Constant(COOLING_FACTOR)
    decay = Exponential(COOLING_FACTOR ** (1 / falling))
    return decay if falling == steps else Phases((decay, Constant(COOLING_FACTOR)), (falling,))


def _cooled(plan: Plan, share: float) -> dict[str, Any]:
    """Return accuracy, training loss and distance from the start of SGD with the cooling schedule."""

    def make(params: Iterable[nn.Parameter], steps: int) -> optim.Optimizer:
        return SGD(params, lr=COOLING_RATE, schedule=cooling_schedule(share, steps), engine="eager")

    found = train(plan, make)
    return {"test": found.test, "loss": found.loss, "distance": found.distance}


def _dropped(seeds: Sequence[int], skips: bool, *, quick: bool) -> dict[str, Any]:
    """Return training losses of deep networks on the digits, with drops of the rate and with a constant rate."""
    plan = Plan(digit_images(), tuple(seeds), hidden=(32,) * 5, epochs=1 if quick else 12, evaluations=24, skips=skips)
    found: dict[str, Any] = {}
    for name, schedule in (("drops", DROPS), ("constant", None)):
        report_progress(f"network {'with' if skips else 'without'} skip connections, {name}")
        runs = train(plan, maker("sgd", DROP_RATE, schedule))
        found[name] = [values[len(TUNING_SEEDS) :] for values in runs.losses]
        found["steps"] = runs.steps
    return found


def outcome_of(found: Mapping[str, Any]) -> Outcome:
    """Return the outcome for the results of `measure`."""
    findings = [*_schedule_findings(found["methods"]), *_cooling_findings(found), *_drop_findings(found["drops"])]
    return Outcome(
        claims=CLAIMS,
        findings=tuple(findings),
        verdict=verdict_of(findings),
        reason=reason(findings),
        panels=(
            Panel("schedules", "Schedules", figures.SCHEDULES_NOTE, partial(figures.schedules, found)),
            Panel("cooling", "Speed of cooling", figures.COOLING_NOTE, partial(figures.cooling, found), claim=1),
            Panel("drops", "Drops of the rate", figures.DROPS_NOTE, partial(figures.drops, found), claim=2),
        ),
        settings={
            "data of schedules and cooling": found["data"],
            "steps": found["steps"],
            "network": "one hidden layer of 32 tanh units; for drops of the rate, five on the digits",
            "rates": {method: list(rates) for method, rates in RATES.items()},
            "chosen rates": {name: item["rate"] for name, item in found["methods"].items()},
            "margin of accuracy": MARGIN,
            "rate at the beginning of cooling": COOLING_RATE,
            "rate at the beginning of drops": DROP_RATE,
        },
        data=dict(found),
    )


def _schedule_findings(methods: Mapping[str, Any]) -> list[Finding]:
    """Compare plain methods with Adam at a constant and at a decaying rate, and each schedule with a constant rate."""
    differences = joint_differences({name: item["test"] for name, item in methods.items()})
    rows = []
    for method in ("sgd", "heavy-ball"):
        for name in SCHEDULES:
            interval = differences[f"{method} {name}", "adam constant"]
            statement = f"accuracy of {method} with {_words(name)} minus that of Adam with a constant rate"
            needed = name != "constant"
            limits = UNDECIDED if needed and interval.low < -MARGIN < interval.high else ""
            holds = interval.estimate > -MARGIN or not needed
            rows.append(interval_finding(f"{method}-{name}-adam", statement, interval, holds=holds, limits=limits))
        interval = differences[f"{method} cosine", "adam cosine"]
        statement = f"accuracy of {method} minus that of Adam, both with a cosine"
        limits = UNDECIDED if interval.low < -MARGIN < interval.high else ""
        rows.append(
            interval_finding(f"{method}-both", statement, interval, holds=interval.estimate > -MARGIN, limits=limits)
        )
    return rows


def _words(name: str) -> str:
    return {"constant": "a constant rate", "step": "two drops by 10", "1/t": "1/t"}.get(name, f"a {name}")


def _cooling_findings(found: Mapping[str, Any]) -> list[Finding]:
    rows = []
    shares = list(found["wells"].items())
    for index, (steps, values) in enumerate(shares):
        statement = f"double well: share that ends in the deeper well after cooling in {steps} steps"
        gain = values if index == 0 else [b - a for a, b in zip(shares[index - 1][1], values, strict=True)]
        holds = index == 0 or mean_interval(gain).low > 0
        rows.append(Finding(f"well-{steps}", statement, *mean_interval(values), None, holds, claim=1))
    slow, fast = found["cooling"]["the whole run"], found["cooling"]["at once"]
    accuracy = joint_differences({name: item["test"] for name, item in found["cooling"].items()})
    for name in COOLING:
        if name != "the whole run":
            interval = accuracy["the whole run", name]
            statement = f"network: accuracy after cooling in the whole run minus that after cooling in {name}"
            limits = UNDECIDED if interval.low <= 0 <= interval.high else ""
            rows.append(
                interval_finding(
                    f"cooling-{name}",
                    statement.replace("in at once", "at once"),
                    interval,
                    holds=interval.estimate > 0,
                    limits=limits,
                    claim=1,
                )
            )
    ratio = mean_interval(a / b for a, b in zip(slow["distance"], fast["distance"], strict=True))
    statement = "network: distance from the initial weights, cooling in the whole run over cooling at once"
    rows.append(Finding("distance", statement, *ratio, None, ratio.low > 1, claim=1))
    return rows


def _drop_findings(drops: Mapping[str, Any]) -> list[Finding]:
    """Return the training loss with drops of the rate over that at a constant rate, between and after the drops."""
    rows = []
    for name, item in drops.items():
        count = len(item["drops"]) - 1
        for label, place in (("before the second drop", 2 * count // 3), ("at the end", count)):
            pairs = zip(item["drops"][place], item["constant"][place], strict=True)
            mean, low, high = (math.exp(value) for value in mean_interval(math.log(a / b) for a, b in pairs))
            statement = f"{name} skip connections: training loss with drops over that at a constant rate, {label}"
            limits = "" if high < 1 or low > 1 else "undecided: the interval contains 1"
            rows.append(Finding(f"drops-{name}-{place}", statement, mean, low, high, None, mean < 1, limits, claim=2))
    return rows


def reason(findings: Sequence[Finding]) -> str:
    """Return sentences on the numbers of decided differences."""
    by_name = {item.name: item for item in findings}
    near = [item for item in findings if item.claim == 0 and "constant" not in item.name]
    decided = sum(item.holds and not item.limits for item in near)
    slow = [item for item in findings if item.claim == 1]
    confirmed = sum(item.holds and not item.limits for item in slow)
    return (
        f"Of {len(near)} comparisons of plain methods with decay, {decided} show an accuracy at most {MARGIN:g} below "
        f"that of Adam, with the joint interval. Of {len(slow)} measurements of cooling, {confirmed} confirm that slow "
        f"cooling explores better; the weights move {by_name['distance'].measured:.1f} times as far as with a low rate "
        "from the beginning."
    )
