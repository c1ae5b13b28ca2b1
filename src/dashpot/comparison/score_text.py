"""Format of scores, names and metrics in tables and sentences."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from statistics import median

from dashpot.comparison.findings import MethodFinding
from dashpot.comparison.results import ScoreRule

MAX_NAMES = 4
"""Number of names in a sentence; the others are counted."""
MOST_DECIMALS = 6


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
    needed = [digits_after_point(median(known), 2)] if known else []
    return min(MOST_DECIMALS, max([*needed, digits_after_point(largest, 3)]))


def digits_after_point(size: float, digits: int) -> int:
    """Return the number of decimals with which a number has some significant digits; 3 for zero.

    >>> digits_after_point(0.0042, 2), digits_after_point(0.88, 3), digits_after_point(1234.0, 3)
    (4, 3, 0)
    """
    return max(0, digits - 1 - math.floor(math.log10(size))) if 0 < size < math.inf else 3


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
