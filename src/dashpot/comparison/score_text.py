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
    """Return the number of decimals of scores: two significant digits of the median half-width of the intervals.

    Without intervals, the scores have three significant digits.

    Args:
        methods: Findings on the methods.
    """
    means = [method.mean for method in methods if method.mean is not None]
    widths = [(mean.high - mean.low) / 2 for mean in means]
    known = [width for width in widths if 0 < width < math.inf]
    sizes = known or [abs(mean.estimate) / 100 for mean in means if 0 < abs(mean.estimate) < math.inf]
    return min(MOST_DECIMALS, max(0, 1 - math.floor(math.log10(median(sizes))))) if sizes else MOST_DECIMALS


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
