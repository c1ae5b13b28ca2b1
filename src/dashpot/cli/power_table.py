"""Text of the command `dashpot power`."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np

from dashpot.comparison.results import Results
from dashpot.comparison.score_matrix import score_matrix
from dashpot.errors import DataError
from dashpot.runs.table import text_table
from dashpot.stats.power import (
    detectable_difference,
    equivalence_power,
    half_width,
    power,
    seeds_for_equivalence,
    seeds_needed,
)
from dashpot.stats.verdicts import decimals, number
from dashpot.utils.format import counted

MOST = 1000
"""Largest number of seeds that is searched."""
WIDTH = 80


class Question(NamedTuple):
    """Arguments of a computation of power; `goal` is the required power."""

    difference: float | None
    sd: float
    methods: int
    margin: float | None
    level: float
    goal: float


class Spread(NamedTuple):
    """Standard deviations of the paired differences of a comparison."""

    median: float
    low: float
    high: float
    pairs: int


def spread_of(results: Results) -> Spread:
    """Return the standard deviations of the paired differences of all pairs of methods with two common seeds.

    Raises:
        DataError: If no pair has two common seeds, or the median is 0.
    """
    values = score_matrix(results).values
    differences = [first - second for first, second in combinations(values, 2)]
    known = [d[np.isfinite(d)] for d in differences]
    sds = [float(d.std(ddof=1)) for d in known if len(d) >= 2]
    if not sds or not np.median(sds) > 0:
        reason = "no two methods share two seeds" if not sds else "the scores of its methods do not vary over seeds"
        raise DataError(f"{results.source or results.task}: no standard deviation, because {reason}; set --sd.")
    return Spread(float(np.median(sds)), min(sds), max(sds), len(sds))


def spread_text(spread: Spread) -> str:
    """Return a sentence with the standard deviations of a comparison.

    >>> print(spread_text(Spread(0.0042, 0.0031, 0.012, 15)))
    The paired differences have the standard deviation .0042 (median of 15 pairs; .0031 to .0120).
    """
    median, low, high = _numbers(*spread[:3])
    text = f"The paired differences have the standard deviation {median}"
    return text + ("." if spread.pairs == 1 else f" (median of {spread.pairs} pairs; {low} to {high}).")


def power_text(question: Question, seeds: Sequence[int]) -> str:
    """Return the table of the power by number of seeds, and a sentence with the number of seeds for the goal."""
    return f"{_table(question, seeds)}\n\n{_sentence(question)}"


def _table(question: Question, seeds: Sequence[int]) -> str:
    difference, sd, methods, margin, level, goal = question
    header = ["seeds", "half-width", f"found at power {number(goal, 2)}"]
    widths = [half_width(sd, n, methods, level) for n in seeds]
    found = [detectable_difference(sd, n, methods, goal, level) for n in seeds]
    columns = [[str(n) for n in seeds], _numbers(*widths), _numbers(*found)]
    if difference is not None:
        header.append(f"power for {_short(difference)}")
        columns.append([number(power(difference, sd, n, methods, level), 3) for n in seeds])
    if margin is not None:
        header.append(f"equivalence within {_short(margin)}")
        columns.append([number(equivalence_power(margin, sd, n, methods, level), 3) for n in seeds])
    return text_table(header, list(zip(*columns, strict=True)))


def _sentence(question: Question) -> str:
    difference, sd, methods, margin, level, goal = question
    among = "two methods" if methods == 2 else f"two of {methods} methods"
    parts = [
        f"Half-width: of the simultaneous {100 * level:.4g} % intervals of the difference of {among}. Found: smallest "
        f"difference with the power {number(goal, 2)}. The paired differences have the standard deviation {_short(sd)}."
    ]
    if difference is not None:
        needed = seeds_needed(difference, sd, methods, goal, level, MOST)
        parts.append(_needed(f"A difference of {_short(difference)} is found", goal, needed))
    if margin is not None:
        needed = seeds_for_equivalence(margin, sd, methods, goal, level, most=MOST)
        parts.append(_needed(f"Methods with equal means are equivalent within {_short(margin)}", goal, needed))
    return "\n".join(textwrap.fill(part, WIDTH) for part in parts)


def _needed(event: str, goal: float, needed: int | None) -> str:
    count = f"more than {counted(MOST, 'seed')}" if needed is None else counted(needed, "seed")
    return f"{event} with a probability of at least {number(goal, 2)} by {count}."


def _numbers(*values: float) -> list[str]:
    """Format numbers with the decimals at which the smallest one has two significant digits."""
    digits = max(0, decimals(min(filter(None, map(abs, values)), default=0.0)))
    return [number(value, digits) for value in values]


def _short(value: float) -> str:
    text = f"{value:.4g}"
    return text.replace("0.", ".", 1) if text.lstrip("-").startswith("0.") else text
