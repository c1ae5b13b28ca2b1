"""Numbers, plurals and lists in sentences."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence


def number(value: float, digits: int = 3) -> str:
    """Format a number with significant digits: thousands are separated by spaces, and exponents have no leading zeros.

    >>> [number(value) for value in (0.001, 1e-5, 37999.99, 0.5, 240.0, 1234, 2.5e9, float("inf"))]
    ['0.001', '1e-5', '38 000', '0.5', '240', '1230', '2.5e9', 'infinity']
    """
    if not math.isfinite(value):
        return "not a number" if math.isnan(value) else "infinity" if value > 0 else "-infinity"
    rounded = float(f"{value:.{digits - 1}e}")
    if rounded and not 1e-4 <= abs(rounded) < 1e7:
        base, _, exponent = f"{rounded:.{digits - 1}e}".partition("e")
        base = base.rstrip("0").rstrip(".") if "." in base else base
        return f"{base}e{int(exponent)}"
    if abs(rounded) >= 10_000:
        return f"{rounded:,.0f}".replace(",", " ")
    places = max(0, digits - 1 - math.floor(math.log10(abs(rounded)))) if rounded else 0
    return f"{rounded:.{places}f}".rstrip("0").rstrip(".") if places else f"{rounded:.0f}"


def count(value: float, noun: str, plural: str | None = None, digits: int = 2) -> str:
    """Return a rounded number and a noun in the right number; whole numbers up to 100 are exact.

    >>> count(1.0, "step"), count(10.0000001, "gradient"), count(69314.4, "step"), count(0.4, "step")
    ('1 step', '10 gradients', '69 000 steps', '0.4 steps')
    """
    text = number(value, 3 if abs(value - round(value)) < 1e-6 and abs(value) < 1000 else digits)
    return f"{text} {noun if text == '1' else plural or f'{noun}s'}"


def percent(share: float) -> str:
    """Format a share in percent.

    >>> percent(0.19), percent(0.1 + 1e-17), percent(0.00312)
    ('19 %', '10 %', '0.31 %')
    """
    return f"{number(100 * share, 2)} %"


def joined(items: Sequence[str], word: str = "and") -> str:
    """Join items into a list.

    >>> joined(["lr"]), joined(["lr", "eps"]), joined(["lr", "betas", "eps"])
    ('lr', 'lr and eps', 'lr, betas and eps')
    """
    return f"{', '.join(items[:-1])} {word} {items[-1]}" if len(items) > 1 else "".join(items)


def unbroken(text: str) -> str:
    r"""Return a text for HTML whose numbers are not broken at the spaces that separate thousands and percent signs.

    >>> unbroken("below 38 000, by 10 % in 2 steps").split(" ")
    ['below', '38\xa0000,', 'by', '10\xa0%', 'in', '2', 'steps']
    """
    return re.sub(r"(?<=\d) (?=\d{3}|%)", "\xa0", text)


def short_exponents(text: str) -> str:
    """Return a text with exponents as `number` formats them.

    >>> short_exponents("below 1.5e-05 or 1e+09")
    'below 1.5e-5 or 1e9'
    """
    return re.sub(r"(?<=\d)e(?:\+|(-))0*(?=\d)", lambda found: f"e{found[1] or ''}", text)
