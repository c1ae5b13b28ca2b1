"""Text of numbers on a page: typographic minus signs, and no zero before the decimal point, as in the headline."""

from __future__ import annotations

import math
import re

from dashpot.stats.verdicts import number

MINUS = "\N{MINUS SIGN}"


def with_minus(text: str) -> str:
    """Return text with typographic minus signs of numbers.

    >>> with_minus("-.25 to x-1")
    '−.25 to x-1'
    """
    return re.sub(r"(?<![\w.])-(?=[\d.])|(?<=\de)-(?=\d)", MINUS, text)


def bare(text: str) -> str:
    """Return text whose numbers have no leading zero and a typographic minus sign.

    >>> bare("-0.25 to 10.05"), bare("1e-09"), bare("x-0.1")
    ('−.25 to 10.05', '1e−09', 'x-.1')
    """
    return re.sub(r"(?<![\d.])0(?=\.\d)", "", with_minus(text))


def general(value: float, digits: int = 3) -> str:
    """Return a number with significant digits.

    >>> general(0.01), general(1200.0, 6), general(float("inf"))
    ('.01', '1200', '∞')
    """
    if math.isinf(value):
        return "∞" if value > 0 else f"{MINUS}∞"
    return bare(f"{value:.{digits}g}")


def score(value: float | None, decimals: int) -> str:
    """Return a score as the headline formats it; a dash without one.

    >>> score(-0.0042, 4), score(None, 4), score(float("inf"), 4)
    ('−.0042', '–', '∞')
    """
    if value is None or math.isnan(value):
        return "–"
    return general(value) if math.isinf(value) else bare(number(value, decimals))


def signed(value: float, decimals: int) -> str:
    """Return a difference of scores with its sign.

    >>> signed(0.0042, 4), signed(-0.0042, 4), signed(0.0, 4)
    ('+.0042', '−.0042', '.0000')
    """
    text = score(value, decimals)
    return f"+{text}" if value > 0 and math.isfinite(value) and re.search("[1-9]", text) else text
