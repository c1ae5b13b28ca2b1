"""AutoSGM's numerators: the largest usable learning rate of each, and their scores at tuned rates."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from dashpot.experiments import numerators_figures as figures
from dashpot.experiments.intervals import MeanInterval, geometric_interval, verdict_of
from dashpot.experiments.numerators_runs import LEVEL, LONG, NUMERATORS, STEPS, measured, study
from dashpot.experiments.result import Claim, Finding, Outcome, Panel
from dashpot.experiments.training_study import difference, interval_finding, joint_differences, study_findings
from dashpot.experiments.tuned_sweep import TUNING

CLAIMS = (
    Claim(
        "AutoSGM, configuration with numerator 3",
        "A moment estimator as numerator (3) allows a higher learning rate than moment estimation in the denominator "
        "alone (0): 1e-2 in place of 1e-3.",
    ),
    Claim(
        "AutoSGM, results",
        "The partial-correlation numerator mostly outperforms Adam's constant numerator.",
    ),
)
REASON = (
    "Numerator 3 allows a much higher learning rate, largely because its average starts at zero: the constant "
    "numerator with the same warm-up also allows a much higher one. With a short memory, and so without a long "
    "warm-up, the largest usable rate is about twice that of the constant numerator. At tuned rates, no numerator is "
    "significantly better than the constant one, on the digits or on images, so that the second claim is not "
    "supported at this size."
)
NOMINAL = (
    "the learning rate is a bound: the rate that is applied, the numerator, starts near zero and follows the mean "
    "square of the normalized gradient"
)
SCORES = {
    "accuracy-1": "digits, correlation (1)",
    "accuracy-2": "digits, Huber correlation (2)",
    "accuracy-3": "digits, moment (3)",
    "accuracy-4": "digits, Huber clipping (4)",
    "images-1": "images, correlation (1)",
}
"""Labels of the differences of accuracies."""
Data = Mapping[str, Any]


def run(seeds: Sequence[int], *, quick: bool) -> Outcome:
    """Measure the largest usable rates of the numerators, and compare their scores at tuned rates."""
    runs = measured(seeds, quick=quick)
    findings = [*_usable_findings(runs), *_ratio_findings(runs), *_digits_findings(runs)]
    images, sentence = ([], "digits.") if quick else _image_findings(seeds)
    findings += images
    data = {
        "runs": runs,
        "scores": {item.name: [item.measured, item.low, item.high] for item in findings if item.name in SCORES},
    }
    return Outcome(
        claims=CLAIMS,
        findings=tuple(findings),
        verdict=verdict_of(findings),
        reason=REASON,
        panels=(
            Panel("rates", "Loss against the learning rate", figures.RATES_NOTE, partial(figures.rates, data)),
            Panel("usable", "Largest usable rates", figures.USABLE_NOTE, partial(figures.usable, data)),
            Panel("scores", "Scores at tuned rates", figures.SCORES_NOTE, partial(figures.scores, data), claim=1),
        ),
        settings={
            "digits": f"64-32-10 tanh network, batch 50, {STEPS} or {LONG} steps, constant rate, pole .9, zero "
            "0; four rates per decade",
            "usable": f"final training loss of at most {LEVEL:g}",
            "images": "network of the task fashion-mnist, one epoch, test accuracy",
            "tuning": f"digits: the rate with the smallest training loss of {len(TUNING)} other seeds; images: the "
            "best of three rates on validation data with one other seed",
            "data": sentence,
            "intervals": "95 %; joint for the differences of claim 2",
        },
        data=data,
    )


def ratio_interval(first: Sequence[float], second: Sequence[float]) -> MeanInterval:
    """Return the geometric mean of the ratios of positive numbers, paired by seed, and its 95 % interval."""
    return geometric_interval([a / b for a, b in zip(first, second, strict=True)])


def _usable_findings(runs: Data) -> list[Finding]:
    """Report the largest usable rate of every method."""
    rows = []
    for name, item in runs.items():
        statement = f"largest usable learning rate, {item['words']}"
        rows.append(Finding(f"usable-{name}", statement, *geometric_interval(item["usable"])))
    return rows


def _ratio_findings(runs: Data) -> list[Finding]:
    """Compare the largest usable rates, and the rates applied there, with those of the constant numerator."""
    pairs = {"3": "0", "3-short": "0", "3-long": "0-long"}
    rows = []
    for name, other in pairs.items():
        if name not in runs:  # quick runs
            continue
        words = runs[name]["words"]
        ratio = ratio_interval(runs[name]["usable"], runs[other]["usable"])
        statement = f"largest usable rate relative to constant (0), {words}"
        rows.append(Finding(f"ratio-{name}", statement, *ratio, None, ratio.low > 1, NOMINAL))
        applied = ratio_interval(runs[name]["applied"], runs[other]["applied"])
        statement = f"rate applied in the last step there, relative to constant (0), {words}"
        rows.append(Finding(f"applied-{name}", statement, *applied))
    for name in ("0-warm", "0-warm-short"):
        if name not in runs:
            continue
        ratio = ratio_interval(runs[name]["usable"], runs["0"]["usable"])
        statement = f"largest usable rate relative to a constant rate, {runs[name]['words']}"
        rows.append(Finding(f"ratio-{name}", statement, *ratio))
    return rows


def _digits_findings(runs: Data) -> list[Finding]:
    """Compare accuracies and training losses on the digits at the rates from the tuning seeds."""
    keys = [str(number) for number in NUMERATORS if str(number) in runs]
    accuracy = joint_differences({key: runs[key]["accuracy"] for key in keys})
    loss = joint_differences({key: [math.log(value) for value in runs[key]["loss"]] for key in keys})
    rows = []
    for key in keys[1:]:
        words, claimed = runs[key]["words"], key in {"1", "2"}
        interval = accuracy[key, "0"]
        statement = f"digits, accuracy minus that of constant (0): {words}"
        holds = interval.low > 0 or not claimed
        rows.append(interval_finding(f"accuracy-{key}", statement, interval, holds=holds, claim=1))
        low, mean, high = (
            math.exp(value) for value in (loss[key, "0"].low, loss[key, "0"].estimate, loss[key, "0"].high)
        )
        statement = f"digits, training loss relative to constant (0): {words}"
        rows.append(Finding(f"loss-{key}", statement, mean, low, high, None, high < 1 or not claimed, claim=1))
    return rows


def _image_findings(seeds: Sequence[int]) -> tuple[list[Finding], str]:
    """Compare numerators on Fashion-MNIST by the protocol of comparisons; also return a sentence on the data."""
    comparison, sentence = study(seeds)
    interval = difference(study_findings(comparison, comparison.task.name), "autosgm-1", "autosgm-0")
    statement = f"{comparison.task.name}, test accuracy minus that of constant (0): {NUMERATORS[1]}"
    return [interval_finding("images-1", statement, interval, holds=interval.low > 0, claim=1)], sentence
