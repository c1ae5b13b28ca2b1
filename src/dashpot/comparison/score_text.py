"""Text of scores, differences and names, in one format for tables, sentences and pages."""

from __future__ import annotations

import math
from collections.abc import Sequence

from dashpot.comparison.results import ScoreRule

MAX_NAMES = 4
"""Number of names in a sentence; the others are counted."""


def score_text(value: float, like: float | None = None) -> str:
    """Format a score with four decimals and no leading zero, or with three digits if it is very small or large.

    Args:
        value: The score, or a difference of scores.
        like: Score whose size determines the format. Default: `value`.

    Returns:
        The text, such as ".8790".

    >>> score_text(0.879), score_text(-0.0042), score_text(1.25), score_text(2e-9), score_text(0.0, like=2e-9)
    ('.8790', '-.0042', '1.2500', '2e-09', '0')
    """
    size = abs(value if like is None else like)
    if not math.isfinite(value):
        return str(value)
    text = f"{value:.4f}" if 1e-3 <= size < 1e3 or size == 0 else f"{value:.3g}"
    if text.startswith("-") and not float(text):
        text = text[1:]
    return text.replace("0.", ".", 1) if text.startswith(("0.", "-0.")) else text


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
