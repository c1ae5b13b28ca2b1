"""Sensitivity of the score to a wrong learning rate."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from dashpot.constraints import OneOf, check
from dashpot.errors import ArgumentError
from dashpot.stats.differences import paired_interval
from dashpot.stats.interval import Interval
from dashpot.stats.times import LEVEL


def rate_sensitivity(scores: Mapping[float, Any], selected: Any, *, level: float = 0.95) -> dict[float, Interval]:
    """Return the change of the score for each factor of the learning rate, paired by seed.

    Args:
        scores: Scores by factor, such as .1 or 10, in the same order of seeds as `selected`; NaN if missing. A diverged
            run has the score of its untrained model.
        selected: Scores with the selected learning rate; NaN if missing.
        level: Confidence level; in (0, 1).

    Returns:
        Mean of score minus selected score by increasing factor, with its interval over seeds; infinite limits for one
        seed. Factors without a pair of scores are omitted.

    Raises:
        ArgumentError: If the numbers of scores differ.

    Example:
        >>> changes = rate_sensitivity({10: [0.70, 0.72], 0.5: [0.80, 0.81]}, [0.81, 0.82])
        >>> {factor: round(change.estimate, 3) for factor, change in changes.items()}
        {0.5: -0.01, 10: -0.105}
    """
    check("rate_sensitivity", "level", level, LEVEL)
    base = np.asarray(selected, dtype=np.float64)
    changes = {}
    for factor in sorted(scores):
        values = np.asarray(scores[factor], dtype=np.float64)
        if values.shape != base.shape:
            raise ArgumentError(
                f"rate_sensitivity: factor {factor:g} must have {base.size} scores, as many as the selected rate, "
                f"got {values.size}."
            )
        differences = values - base
        differences = differences[np.isfinite(differences)]
        if differences.size:
            unbounded = Interval(float(differences.mean()), -math.inf, math.inf, level, "one seed")
            changes[factor] = paired_interval(differences, level) or unbounded
    return changes


def sensitivity_sentence(changes: Mapping[float, Interval], metric: str, direction: str) -> str:
    """Return a sentence on the cost of wrong learning rates, largest factor first.

    The cost of a factor is that of the worse of the two rates, multiplied or divided by the factor; 0 if neither is
    worse than the selected rate.

    Args:
        changes: Changes of the score by factor, as returned by `rate_sensitivity`.
        metric: Name of the score.
        direction: "max" or "min".

    Returns:
        The sentence, or "" without changes.

    Raises:
        ArgumentError: If `direction` is out of range.

    Example:
        >>> changes = {f: Interval(c, c, c) for f, c in ((0.1, -0.02), (0.5, -0.004), (2.0, 0.001), (10.0, -0.12))}
        >>> sensitivity_sentence(changes, "accuracy", "max")
        'A learning rate wrong by a factor of 10 costs .12 accuracy, by a factor of 2 .0040.'
    """
    check("sensitivity_sentence", "direction", direction, OneOf(("max", "min")))
    sign = 1.0 if direction == "max" else -1.0
    costs: dict[float, float] = {}
    for factor, change in changes.items():
        size = float(f"{max(factor, 1 / factor):.6g}")  # 1/.1 and 10 are one factor
        costs[size] = max(costs.get(size, 0.0), -sign * change.estimate)
    parts = [f"by a factor of {size:g} {{}}{_number(costs[size])}" for size in sorted(costs, reverse=True)]
    if not parts:
        return ""
    first, *others = parts
    text = ", ".join([first.format("costs ") + f" {metric}", *(part.format("") for part in others)])
    return f"A learning rate wrong {text}."


def _number(value: float) -> str:
    """Return a number with two significant digits and without a leading zero.

    >>> _number(0.1234), _number(0.00042), _number(12.34), _number(0.0)
    ('.12', '.00042', '12', '0')
    """
    if value == 0:
        return "0"
    digits = max(0, 1 - math.floor(math.log10(abs(value))))
    return f"{value:.{digits}f}".removeprefix("0")
