"""Color and dash pattern of each method, the same in every chart and report.

Methods of the same family share a hue and differ in dash pattern, so similar colors are never the only difference
between two methods.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from dashpot.figures.palette import BLUE, GREEN, ORANGE, PURPLE, SKY, SLATE, VERMILION, Hue
from dashpot.figures.style import DASHES


class Style(NamedTuple):
    """Color and name of the dash pattern of a line."""

    hue: Hue
    dash: str = "solid"

    @property
    def options(self) -> dict[str, Any]:
        """Keyword arguments of matplotlib for a line."""
        return {"color": self.hue.light, "linestyle": DASHES[self.dash]}


STYLES: dict[str, Style] = {
    "sgd": Style(SLATE),
    "heavy-ball": Style(ORANGE),
    "nag": Style(VERMILION, "dash"),
    "qhm": Style(ORANGE, "dot"),
    "adagrad": Style(PURPLE, "dot"),
    "rmsprop": Style(PURPLE),
    "adam": Style(BLUE),
    "adamw": Style(SKY, "dash"),
    "nadam": Style(BLUE, "dot"),
    "qhadam": Style(SKY, "dashdot"),
    "centered-adam": Style(PURPLE, "dash"),
    "autosgm": Style(GREEN),
    "autosgm-0": Style(GREEN),
    "autosgm-1": Style(GREEN, "dash"),
    "autosgm-2": Style(GREEN, "longdash"),
    "autosgm-3": Style(GREEN, "dot"),
    "autosgm-4": Style(GREEN, "dashdot"),
}
"""Fixed styles of dashpot's methods."""

FALLBACK_STYLES = [
    *(Style(hue, "longdashdot") for hue in (VERMILION, BLUE, GREEN, PURPLE, SLATE)),
    *(Style(hue, "longdash") for hue in (VERMILION, BLUE, PURPLE, SLATE)),
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
