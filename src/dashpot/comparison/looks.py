"""Looks of a group-sequential study: after which number of seeds it ends.

`dashpot.stats.sequential.spent_alpha` divides the error rate among the looks. The study ends with the first look that
decides every pair of methods: its simultaneous interval excludes 0, or lies within the margin of equivalence.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache

from dashpot.runs.study import Study
from dashpot.scheduling.work_items import Outcome


def runs_end_at(study: Study, outcomes: Mapping[str, Outcome]) -> int:
    """Return the number of seeds up to which a study runs, given the outcomes so far.

    It is the number of seeds of the first look that is not finished, or decides every pair, or is the last one; without
    looks, the number of all seeds.
    """
    for number, seeds in enumerate(study.looks[:-1]):
        keys = [[f"run/{entry.name}/{seed}" for seed in study.seeds[:seeds]] for entry in study.entries]
        if not all(key in outcomes for row in keys for key in row):
            return seeds
        scores = tuple(tuple(_score(outcomes[key]) for key in row) for row in keys)
        if is_decided(scores, _alphas(study.looks)[number], study.settings()["score"]["margin"]):
            return seeds
    return len(study.seeds)


@lru_cache(maxsize=64)
def is_decided(scores: tuple[tuple[float, ...], ...], alpha: float, margin: float | None) -> bool:
    """Return whether scores by method and seed, NaN if missing, decide every pair at the error rate `alpha`.

    >>> a, b = (0.90, 0.91, 0.92), (0.80, 0.815, 0.82)
    >>> is_decided((a, b), 0.05, None), is_decided((a, a, b), 0.05, None), is_decided((a, a, b), 0.05, 0.01)
    (True, False, True)
    """
    from dashpot.stats.all_pairs import all_pairs

    if len(scores) < 2:
        return True
    found = all_pairs(scores, level=1 - alpha)
    pairs = ((i, j) for i in range(len(scores)) for j in range(i))
    return all(found.separated(i, j) or _is_equivalent(found.intervals[i][j], margin) for i, j in pairs)


def _is_equivalent(interval: object, margin: float | None) -> bool:
    from dashpot.stats.interval import Interval

    return margin is not None and isinstance(interval, Interval) and interval.inside(-margin, margin)


@lru_cache(maxsize=64)
def _alphas(looks: tuple[int, ...]) -> tuple[float, ...]:
    from dashpot.stats.sequential import spent_alpha

    return spent_alpha(looks)


def _score(outcome: Outcome) -> float:
    return math.nan if outcome.score is None or not math.isfinite(outcome.score) else float(outcome.score)
