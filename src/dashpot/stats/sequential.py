"""Error rates of studies that add seeds in stages."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from dashpot.constraints import Interval as Range
from dashpot.constraints import check
from dashpot.errors import ArgumentError

SEEDS = Range(2, float("inf"), "left", integer=True)


def spent_alpha(looks: Sequence[int], alpha: float = 0.05) -> tuple[float, ...]:
    """Divide an error rate among the looks of a group-sequential study.

    Look j has alpha_j = alpha (n_j - n_{j-1})/n_last for n_j seeds. The sum is alpha, so that by the union bound the
    probability of a false verdict at any look is at most alpha. The intervals of look j have the level 1 - alpha_j.

    Args:
        looks: Increasing numbers of seeds, at least 2.
        alpha: Error rate of the study in (0, 1).

    Returns:
        Error rates by look.

    Raises:
        ArgumentError: If `looks` is empty or does not increase, or an argument is out of range.

    Source: Lan and DeMets, Discrete Sequential Boundaries for Clinical Trials, Biometrika 70 (1983), for spending
    proportional to the sample size.

    >>> [round(share, 4) for share in spent_alpha([5, 10, 20])]
    [0.0125, 0.0125, 0.025]
    """
    check("spent_alpha", "alpha", alpha, Range(0, 1))
    for seeds in looks:
        check("spent_alpha", "looks", seeds, SEEDS)
    if not looks or any(late <= early for early, late in pairwise(looks)):
        raise ArgumentError(f"spent_alpha: looks must be increasing numbers of seeds, got {list(looks)}.")
    before = (0, *looks[:-1])
    return tuple(alpha * (late - early) / looks[-1] for early, late in zip(before, looks, strict=True))
