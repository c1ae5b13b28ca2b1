"""Verdicts on pairs of methods, as data and as sentences."""

from __future__ import annotations

import math
from dataclasses import dataclass

from dashpot.constraints import Interval as Range
from dashpot.constraints import OneOf, Optional, check
from dashpot.stats.interval import Interval, reverse
from dashpot.utils.format import counted

MANY_SEEDS = 201
"""Number of additional seeds that stands for more than 200."""

_MARGIN = Optional(Range(0, math.inf, "left"))
_DIRECTION = OneOf(("max", "min"))


@dataclass(frozen=True)
class Verdict:
    """Verdict on the first of two methods.

    Attributes:
        kind: "better", "worse", "equivalent" (the interval is within the margin) or "undecided".
        more_seeds: For "undecided", the approximate number of additional seeds for a verdict with the power .8 if the
            observed difference and standard deviation are the true ones; 201 for more than 200; None if unknown.
    """

    kind: str
    more_seeds: int | None = None


def verdict(
    interval: Interval | None,
    margin: float | None = None,
    *,
    direction: str = "max",
    p: float | None = None,
    sd: float | None = None,
    seeds: int = 0,
    methods: int = 2,
) -> Verdict:
    """Return the verdict on two methods.

    Equivalent if the interval is within [-margin, margin], also if it excludes 0, and if all scores are identical.
    Else better or worse if the interval excludes 0, and the p-value, if given, is at most 1 - level. Else undecided.

    Args:
        interval: Interval of the score of the first method minus that of the second; None without a common seed.
        margin: Largest irrelevant difference; None or >= 0.
        direction: "max" if larger scores are better, else "min".
        p: P-value, adjusted as the interval.
        sd: Standard deviation of the paired differences, for the number of additional seeds.
        seeds: Number of common seeds.
        methods: Number of methods in the comparison.

    Returns:
        The verdict.

    Raises:
        ArgumentError: If `margin` or `direction` is out of range.

    >>> verdict(Interval(0.02, 0.01, 0.03)), verdict(Interval(0.02, 0.01, 0.03), margin=0.05)
    (Verdict(kind='better', more_seeds=None), Verdict(kind='equivalent', more_seeds=None))
    >>> verdict(Interval(0.02, -0.03, 0.07), sd=0.04, seeds=5)
    Verdict(kind='undecided', more_seeds=34)
    """
    check("verdict", "margin", margin, _MARGIN)
    check("verdict", "direction", direction, _DIRECTION)
    if interval is None or not math.isfinite(interval.high - interval.low):
        return Verdict("undecided")
    if interval.inside(-(margin or 0.0), margin or 0.0):
        return Verdict("equivalent")
    if interval.excludes(0.0) and (p is None or p <= 1 - interval.level):
        return Verdict("better" if (interval.estimate > 0) == (direction == "max") else "worse")
    return Verdict("undecided", None if sd is None or seeds < 2 else _more(interval, margin, sd, seeds, methods))


def _more(interval: Interval, margin: float | None, sd: float, seeds: int, methods: int) -> int:
    """Return the number of additional seeds for a separation or an equivalence, whichever is less.

    The standard deviation is at least the one for which intervals have the width of this one on average: the interval
    of a pair can be wider than its own standard deviation suggests, such as that of a pair of a pool.
    """
    from dashpot.stats.power import half_width, seeds_for_equivalence, seeds_needed

    typical = half_width(1.0, seeds, methods, interval.level)
    spread = max(sd, (interval.high - interval.low) / 2 / typical, 1e-12 * abs(interval.estimate), 1e-300)
    most = seeds + MANY_SEEDS - 1
    needed = seeds_needed(interval.estimate, spread, methods, level=interval.level, most=most)
    fewer = most if needed is None else needed - 1
    if margin and fewer > seeds:
        difference = interval.estimate
        needed = (
            seeds_for_equivalence(margin, spread, methods, level=interval.level, difference=difference, most=fewer)
            or needed
        )
    return MANY_SEEDS if needed is None else max(needed - seeds, 1)


def verdict_sentence(
    first: str,
    second: str,
    metric: str,
    interval: Interval | None,
    found: Verdict,
    margin: float | None = None,
    *,
    direction: str = "max",
) -> str:
    """Return a sentence with the verdict on two methods.

    Args:
        first: Name of the first method.
        second: Name of the second method.
        metric: Name of the metric, such as "accuracy".
        interval: Interval of the score of the first method minus that of the second; None without a common seed.
        found: Verdict of `verdict`.
        margin: Largest irrelevant difference, or None.
        direction: "max" if larger scores are better, else "min".

    Returns:
        The sentence, with a period.

    >>> print(verdict_sentence("adamw", "sgd", "accuracy", Interval(0.0123, 0.0061, 0.0185), Verdict("better")))
    adamw is better than sgd: accuracy higher by .0123 (95 % interval .0061 to .0185).
    >>> print(verdict_sentence("a", "b", "loss", Interval(-0.2, -0.5, 0.1), Verdict("undecided", 14), direction="min"))
    a and b are undecided: loss of a lower by .20 (95 % interval -.10 to .50); about 14 more seeds for a verdict.
    """
    if found.kind == "worse":
        return verdict_sentence(
            second, first, metric, interval and reverse(interval), Verdict("better"), direction=direction
        )
    if interval is None:
        return f"{first} and {second} are undecided: no common seed."
    sign = 1.0 if interval.estimate >= 0 else -1.0
    shown = interval if sign > 0 else reverse(interval)
    word = "higher" if sign > 0 else "lower"
    if found.kind == "better":
        return f"{first} is better than {second}: {metric} {word} by {interval_text(shown)}."
    if found.kind == "equivalent":
        return _equivalent(first, second, metric, interval, word, margin)
    if not math.isfinite(interval.high - interval.low):
        by = number(abs(interval.estimate), decimals(abs(interval.estimate)))
        return (
            f"{first} and {second} are undecided: {metric} of {first} {word} by {by} on one seed, "
            "which allows no interval."
        )
    more = "" if found.more_seeds is None else f"; {more_seeds_text(found.more_seeds)} for a verdict"
    return f"{first} and {second} are undecided: {metric} of {first} {word} by {interval_text(shown)}{more}."


def more_seeds_text(more: int) -> str:
    """Return a number of additional seeds as text.

    >>> more_seeds_text(14), more_seeds_text(1), more_seeds_text(MANY_SEEDS)
    ('about 14 more seeds', 'about 1 more seed', 'more than 200 more seeds')
    """
    return "more than 200 more seeds" if more >= MANY_SEEDS else f"about {counted(more, 'more seed')}"


def interval_text(interval: Interval) -> str:
    """Format an estimate with its interval.

    The half-width has two significant digits. An interval that excludes 0 has decimals until no limit reads as 0.

    >>> interval_text(Interval(0.014, 0.0002, 0.027))
    '.0140 (95 % interval .0002 to .0270)'
    >>> interval_text(Interval(0.0123, 0.0061, 0.0185)), interval_text(Interval(12.34, 9.9, 14.8, level=0.9875))
    ('.0123 (95 % interval .0061 to .0185)', '12.3 (98.75 % interval 9.9 to 14.8)')
    """
    digits = decimals((interval.high - interval.low) / 2 or abs(interval.estimate))
    if interval.excludes(0.0):
        nearest = min(abs(interval.low), abs(interval.high))
        digits = max(digits, decimals(nearest, 1)) if nearest < 0.5 * 10.0**-digits else digits
    estimate, low, high = (number(value, digits) for value in (interval.estimate, interval.low, interval.high))
    return f"{estimate} ({100 * interval.level:.4g} % interval {low} to {high})"


def number(value: float, digits: int) -> str:
    """Format a number with a number of decimals, without a zero before the decimal point.

    With more than 6 decimals, the number has 2 to 4 significant digits instead, so that small numbers do not become 0.
    Numbers from a million have at least 3 significant digits, and the decimals only if they are significant.

    Args:
        value: The number.
        digits: Number of decimals; negative for the rounding of large numbers to multiples of 10, 100, ...

    >>> number(0.0123, 3), number(-0.5, 2), number(-0.0001, 2), number(12.0, 0), number(3.2e-7, 8)
    ('.012', '-.50', '.00', '12', '3.2e-07')
    >>> number(1e6, 2), number(1234567.0, 0), number(1.234e8, -6), number(0.9126, 10)
    ('1000000.00', '1234567', '1.23e+08', '.9126')
    """
    exponent = math.floor(math.log10(abs(value))) if 0 < abs(value) < math.inf else 0
    significant = digits + exponent + 1
    if digits > 6:
        text = f"{value:#.{min(4, max(2, significant))}g}" if value else "0"
    elif exponent >= 6:
        text = f"{value:#.{min(12, max(3, significant))}g}".removesuffix(".")
    else:
        text = f"{value:.{max(0, digits)}f}"
    if not text.strip("-0."):
        text = text.lstrip("-")
    return text.replace("0.", ".", 1) if text.lstrip("-").startswith("0.") else text


def decimals(size: float, significant: int = 2) -> int:
    """Return the number of decimals with which a number has some significant digits; 3 for zero, < 0 from 100.

    >>> decimals(0.0042), decimals(0.88, 3), decimals(12.0), decimals(4e7), decimals(0.0)
    (4, 3, 0, -6, 3)
    """
    return significant - 1 - math.floor(math.log10(size)) if 0 < size < math.inf else 3


def _equivalent(first: str, second: str, metric: str, interval: Interval, word: str, margin: float | None) -> str:
    if interval.low == interval.high == 0:
        return f"{first} and {second} are equal: the same {metric} on all seeds."
    shown = interval if interval.estimate >= 0 else reverse(interval)
    limit = number(margin or 0.0, decimals(margin or 0.0, 1))
    return (
        f"{first} and {second} are equivalent within the margin of {limit}: {metric} of {first} {word} by "
        f"{interval_text(shown)}."
    )
