"""Means over seeds, their confidence intervals, and the verdicts that follow from them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from dashpot.constraints import shown
from dashpot.errors import ArgumentError
from dashpot.experiments.result import FAILS, HOLDS, HOLDS_WITH_LIMITS, Finding
from dashpot.utils.student import t_quantile


class MeanInterval(NamedTuple):
    """Mean over seeds and the ends of its 95 % interval."""

    mean: float
    low: float
    high: float


def mean_interval(values: Iterable[float]) -> MeanInterval:
    """Return the mean and its 95 % interval, mean -+ t s / sqrt(n).

    s is the sample standard deviation and t the 0.975 quantile of Student's distribution with n - 1 degrees of freedom.

    Args:
        values: Results of n >= 2 seeds, finite numbers.

    Raises:
        ArgumentError: If there are fewer than two values, or a value is not finite.

    >>> mean_interval([1.0, 2.0, 3.0])
    MeanInterval(mean=2.0, low=-0.484..., high=4.484...)
    """
    numbers = [float(value) for value in values]
    if len(numbers) < 2:
        raise ArgumentError(f"mean_interval: values must contain at least two numbers, got {shown(numbers)}.")
    if not all(map(math.isfinite, numbers)):
        raise ArgumentError(f"mean_interval: values must be finite, got {shown(numbers)}.")
    mean, half = statistics.fmean(numbers), statistics.stdev(numbers) / math.sqrt(len(numbers))
    half *= t_quantile(len(numbers) - 1)
    return MeanInterval(mean, mean - half, mean + half)


def geometric_interval(values: Iterable[float]) -> MeanInterval:
    """Return the geometric mean of positive numbers and its 95 % interval, from `mean_interval` of the logarithms.

    Args:
        values: Results of n >= 2 seeds, positive and finite.

    Raises:
        ArgumentError: If there are fewer than two values, or a value is not positive or not finite.

    >>> geometric_interval([2.0, 2.0])
    MeanInterval(mean=2.0..., low=2.0..., high=2.0...)
    """
    numbers = [float(value) for value in values]
    if any(value <= 0 for value in numbers):
        raise ArgumentError(f"geometric_interval: values must be positive, got {shown(numbers)}.")
    return MeanInterval(*map(math.exp, mean_interval(map(math.log, numbers))))


def compared(
    name: str,
    statement: str,
    values: Sequence[float],
    predicted: float,
    *,
    tolerance: float = 0.0,
    limits: str = "",
    claim: int = 0,
) -> Finding:
    """Return the finding that compares the mean over seeds with a prediction.

    It holds if the prediction is in the 95 % interval, widened on both sides by `tolerance * abs(predicted)`.

    Args:
        name: Identifier of the finding.
        statement: Measured quantity in words, with its unit.
        values: Results of at least two seeds.
        predicted: Prediction.
        tolerance: Relative error of the prediction itself, for predictions that are approximations; >= 0.
        limits: Condition under which it holds.
        claim: Index of the claim.

    >>> compared("gain", "noise gain", [0.9, 1.0, 1.1], 1.05).holds
    True
    """
    mean, low, high = mean_interval(values)
    slack = tolerance * abs(predicted)
    holds = low - slack <= predicted <= high + slack
    return Finding(name, statement, mean, low, high, predicted, holds, limits, claim)


def verdict_of(findings: Iterable[Finding]) -> str:
    """Return the verdict that follows from the findings of one or several claims.

    A claim fails if one of its findings does not hold, holds with limits if one of them has limits, and holds
    otherwise. Several claims with different verdicts give "holds with limits".

    >>> good = Finding("a", "a", 1.0, 1.0, 1.0)
    >>> bad = Finding("b", "b", 1.0, 1.0, 1.0, holds=False, claim=1)
    >>> verdict_of([good]), verdict_of([bad]), verdict_of([good, bad])
    ('holds', 'does not hold here', 'holds with limits')
    """
    by_claim: dict[int, list[Finding]] = {}
    for finding in findings:
        by_claim.setdefault(finding.claim, []).append(finding)
    verdicts = {_claim_verdict(group) for group in by_claim.values()}
    return verdicts.pop() if len(verdicts) == 1 else HOLDS_WITH_LIMITS


def _claim_verdict(findings: Sequence[Finding]) -> str:
    if not all(finding.holds for finding in findings):
        return FAILS
    return HOLDS_WITH_LIMITS if any(finding.limits for finding in findings) else HOLDS
