"""Format of scores, names and metrics in tables and sentences."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from statistics import median

from dashpot.comparison.findings import MethodFinding
from dashpot.comparison.results import ScoreRule
from dashpot.stats import Interval
from dashpot.stats.verdicts import decimals, number

MAX_NAMES = 4
"""Number of names in a sentence; the others are counted."""


def score_decimals(methods: Iterable[MethodFinding]) -> int:
    """Return the number of decimals of scores.

    The median half-width of the intervals has two significant digits, and the largest score at least three.

    Args:
        methods: Findings on the methods.
    """
    means = [method.mean for method in methods if method.mean is not None]
    widths = [(mean.high - mean.low) / 2 for mean in means]
    known = [width for width in widths if 0 < width < math.inf]
    largest = max((abs(mean.estimate) for mean in means), default=0.0)
    needed = [decimals(median(known))] if known else []
    return max([*needed, decimals(largest, 3)])


def mean_text(mean: Interval, digits: int) -> tuple[str, str]:
    """Return a mean score and its half-width, "" if that is unknown.

    A method whose mean and half-width are 0 with the decimals of all methods has decimals of its own.

    Args:
        mean: Mean score with its interval.
        digits: Number of decimals of all methods.

    >>> mean_text(Interval(0.5, 0.4, 0.6), 2), mean_text(Interval(3e-12, 2e-12, 4e-12), 2)
    (('.50', '.10'), ('3.0e-12', '1.0e-12'))
    """
    half = (mean.high - mean.low) / 2
    known = math.isfinite(half)
    if max(abs(mean.estimate), half if known else 0.0) < 0.5 * 10.0**-digits:
        digits = decimals(half if known and half > 0 else abs(mean.estimate))
    return number(mean.estimate, digits), number(half, digits) if known else ""


def names_text(names: Sequence[str], most: int = MAX_NAMES) -> str:
    """Join names with commas and "and"; of more than `most` + 1 names, the others are counted.

    >>> names_text(["adam"]), names_text(["adam", "nag"]), names_text(["a", "b", "c"]), names_text(list("abcdefg"))
    ('adam', 'adam and nag', 'a, b and c', 'a, b, c, d and 3 others')
    """
    shown = list(names)
    if len(shown) > most + 1:
        shown = [*shown[:most], f"{len(shown) - most} others"]
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"


def metric_text(rule: ScoreRule) -> str:
    """Return the metric with its split, such as "test accuracy".

    >>> metric_text(ScoreRule("loss", "min", "validation"))
    'validation loss'
    """
    return f"{rule.split} {rule.metric}"
