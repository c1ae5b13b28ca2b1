"""Style sheet of all figures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dashpot.figures.palette import GRID, INK, MUTED, RULE, SERIES

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LINE_WIDTH = 1.6
TEXT_SIZE = 9.0
TITLE_SIZE = 10.0

DASHES: dict[str, Any] = {
    "solid": "solid",
    "dash": (0, (4.0, 2.2)),
    "dot": (0, (1.2, 1.6)),
    "dashdot": (0, (4.0, 1.6, 1.2, 1.6)),
    "longdash": (0, (7.0, 2.2)),
    "longdashdot": (0, (7.0, 1.6, 1.2, 1.6)),
}
"""Matplotlib line styles by name, in units of the line width."""

SETTINGS: dict[str, Any] = {
    "font.size": TEXT_SIZE,
    "text.color": INK.light,
    "figure.facecolor": "white",
    "axes.facecolor": "none",
    "axes.edgecolor": RULE.light,
    "axes.labelcolor": MUTED.light,
    "axes.labelsize": TEXT_SIZE,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.xmargin": 0.02,
}


def style_settings() -> dict[str, Any]:
    """Return the matplotlib settings under which axes are created."""
    from cycler import cycler

    # Series 9 to 16 have the same colors with dashes.
    cycle = cycler(linestyle=[DASHES["solid"], DASHES["dash"], DASHES["dot"]]) * cycler(
        color=[hue.light for hue in SERIES], linewidth=[LINE_WIDTH] * len(SERIES)
    )
    return {**SETTINGS, "axes.prop_cycle": cycle}


def style_ticks(ax: Axes) -> None:
    """Set the properties of ticks and grid, which matplotlib creates later, under other settings."""
    ax.tick_params(which="both", color=RULE.light, labelcolor=MUTED.light, labelsize=TEXT_SIZE - 0.5)
    ax.tick_params(which="major", length=3)
    ax.grid(visible=True, color=GRID.light, linewidth=0.8)
