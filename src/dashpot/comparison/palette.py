"""Color and line style of each method, the same in every chart and report.

The hues follow the color-blind-safe palette of Okabe and Ito, darkened for light pages and lightened for dark pages.
Methods of the same family share a hue and differ in dash pattern, so similar colors are never the only difference
between two methods.

Source: M. Okabe and K. Ito, Color Universal Design, 2008.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple


class Style(NamedTuple):
    """Line color on light pages, line color on dark pages, and plotly name of the dash pattern."""

    light: str
    dark: str
    dash: str = "solid"


INK = ("#2b3036", "#e4e8ee")
ORANGE = ("#b96f00", "#f0a73a")
VERMILION = ("#c2410c", "#fb7d4b")
PURPLE = ("#a83e7f", "#e78fc2")
BLUE = ("#0a62a8", "#5aa9ee")
SKY = ("#1487b8", "#7fd0f5")
GREEN = ("#087f5b", "#35c796")

STYLES: dict[str, Style] = {
    "sgd": Style(*INK),
    "heavy-ball": Style(*ORANGE),
    "nag": Style(*VERMILION, "dash"),
    "qhm": Style(*ORANGE, "dot"),
    "rmsprop": Style(*PURPLE),
    "adam": Style(*BLUE),
    "adamw": Style(*SKY, "dash"),
    "nadam": Style(*BLUE, "dot"),
    "qhadam": Style(*SKY, "dashdot"),
    "centered-adam": Style(*PURPLE, "dash"),
    "autosgm": Style(*GREEN),
    "autosgm-0": Style(*GREEN),
    "autosgm-1": Style(*GREEN, "dash"),
    "autosgm-2": Style(*GREEN, "longdash"),
    "autosgm-3": Style(*GREEN, "dot"),
    "autosgm-4": Style(*GREEN, "dashdot"),
}
"""Fixed styles of dashpot's methods."""

FALLBACK_STYLES = [
    *(Style(*hue, "longdashdot") for hue in (VERMILION, BLUE, GREEN, PURPLE, INK)),
    *(Style(*hue, "longdash") for hue in (VERMILION, BLUE, PURPLE, INK)),
]


def styles_for(names: Iterable[str]) -> dict[str, Style]:
    """Return a style for each name: the fixed style of a dashpot method, or the next fallback style for other methods.

    >>> styles_for(["adam", "mine"])["mine"].dash
    'longdashdot'
    """
    styles: dict[str, Style] = {}
    unknown = 0
    for name in names:
        if name in STYLES:
            styles[name] = STYLES[name]
        else:
            styles[name] = FALLBACK_STYLES[unknown % len(FALLBACK_STYLES)]
            unknown += 1
    return styles
