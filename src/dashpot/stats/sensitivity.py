"""Sensitivity of the score to a wrong learning rate."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from dashpot.constraints import check
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
