"""Colors of figures, each with a variant for light and one for dark pages.

The hues follow the color-blind-safe palette of Okabe and Ito, darkened for light pages and lightened for dark pages.

Source: M. Okabe and K. Ito, Color Universal Design, 2008.
"""

from __future__ import annotations

from typing import NamedTuple

from dashpot.constraints import shown
from dashpot.errors import ArgumentError


class Hue(NamedTuple):
    """A color on light pages, which is also the color of PNG and PDF files, and the color on dark pages."""

    light: str
    dark: str


BLUE = Hue("#0a62a8", "#5aa9ee")
VERMILION = Hue("#b03608", "#ff6a3d")
GREEN = Hue("#087f5b", "#35c796")
PURPLE = Hue("#a83e7f", "#e78fc2")
ORANGE = Hue("#bf7a00", "#f5c542")
SKY = Hue("#1487b8", "#7fd0f5")
SLATE = Hue("#2b3036", "#e4e8ee")
GREY = Hue("#8f8f8f", "#767676")
SERIES = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, SLATE, GREY)
"""Colors of series, in the order of use."""

INK = Hue("#1b1f24", "#e6e9ed")
MUTED = Hue("#5c6672", "#9aa4b0")
RULE = Hue("#b4bcc5", "#4a525c")
GRID = Hue("#e6e9ec", "#262c33")
PAPER = Hue("#ffffff", "#14171b")

ROLES = {
    "ink": INK,
    "muted": MUTED,
    "rule": RULE,
    "grid": GRID,
    "paper": PAPER,
    "accent": BLUE,
    "stable": SKY,
    "unstable": VERMILION,
}
VARIABLES = {
    **{f"series-{index}": hue for index, hue in enumerate(SERIES)},
    **{name: ROLES[name] for name in ("ink", "muted", "rule", "grid", "paper")},
}
"""Colors by name of the CSS variable, without the leading dashes."""


def color(index_or_role: int | str) -> str:
    """Return a color of the house style as a hexadecimal string.

    On pages and in inline SVG, the color changes with the theme; in PNG and PDF files, it has the returned value.

    Args:
        index_or_role: Index of a series, an integer >= 0, where the eight colors repeat; or "ink", "muted", "rule",
            "grid" or "paper" for text and lines, "accent", or "stable" and "unstable" for regions.

    Raises:
        ArgumentError: If `index_or_role` is neither.

    Example:
        >>> color(0), color("unstable")
        ('#0a62a8', '#b03608')
    """
    if isinstance(index_or_role, int) and not isinstance(index_or_role, bool) and index_or_role >= 0:
        return SERIES[index_or_role % len(SERIES)].light
    if isinstance(index_or_role, str) and index_or_role in ROLES:
        return ROLES[index_or_role].light
    allowed = f"an integer >= 0 or one of {', '.join(map(repr, ROLES))}"
    raise ArgumentError(f"color: index_or_role must be {allowed}, got {shown(index_or_role)}.")


def css_color(value: str) -> str:
    """Return the CSS for a light color: a variable of the page with the color as default, or the color itself.

    >>> css_color("#0a62a8"), css_color("#123456")
    ('var(--series-0,#0a62a8)', '#123456')
    """
    name = _NAMES.get(value)
    return value if name is None else f"var(--{name},{value})"


_NAMES = {hue.light: name for name, hue in VARIABLES.items()} | {"#000000": "ink"}
"""Names of CSS variables by light color; black, the default of matplotlib, is the color of text."""
