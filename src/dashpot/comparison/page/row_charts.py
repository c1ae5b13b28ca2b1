"""Charts with a row per method: their division into drawings, estimates, and the axis below the rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeVar

from dashpot.comparison.page.drawing import Drawing
from dashpot.comparison.page.scales import Scale
from dashpot.stats import Interval

ROWS = 40
"""Largest number of rows of a drawing; more rows need several drawings, which fit on printed pages."""
WIDE, NARROW = 900.0, 360.0
"""Widths of the drawings for wide and narrow screens."""
NAME = 150.0
"""Width of the column of names."""
TALL_ROW = 40.0
"""Height of a row on narrow screens, whose text is above the estimate."""
AXIS = 40.0
"""Height of the axis with its labels and its name."""

Row = TypeVar("Row")


def row_charts(key: str, rows: Sequence[Row], draw: Callable[[Sequence[Row], str], str]) -> str:
    """Return figures of up to `ROWS` rows, with a drawing for wide and one for narrow screens.

    Args:
        key: Id of the first figure, and prefix of the ids of the others.
        rows: Rows of all figures.
        draw: Function that returns the drawing of rows for screens of a kind, "wide" or "narrow".
    """
    figures = []
    for start in range(0, len(rows), ROWS):
        drawings = "".join(draw(rows[start : start + ROWS], kind) for kind in ("wide", "narrow"))
        figures.append(f'<figure id="{key}{f"-{start}" if start else ""}">\n{drawings}\n</figure>\n')
    return "".join(figures)


def value_axis(drawing: Drawing, scale: Scale, top: float, bottom: float, name: str) -> None:
    """Draw the x axis of values with its name at `bottom`, and grid lines up to `top`."""
    for value, label in scale.ticks(6 if scale.end > NARROW else 4):
        x = scale.place(value)
        drawing.line(x, top, x, bottom, "grid")
        drawing.text(x, bottom + 15, label, "tick", "middle")
    drawing.line(scale.start, bottom, scale.end, bottom, "axis")
    drawing.text((scale.start + scale.end) / 2, bottom + 33, name, "name", "middle")


def estimate(drawing: Drawing, interval: Interval, scale: Scale, y: float) -> None:
    """Draw the limits of an interval and its estimate within the axis."""
    if math.isfinite(interval.low) and math.isfinite(interval.high):
        drawing.line(scale.clamped(interval.low), y, scale.clamped(interval.high), y, "interval")
    if scale.contains(interval.estimate):
        drawing.dot(scale.place(interval.estimate), y, 4.6, "mean")


def edge_arrow(drawing: Drawing, scale: Scale, y: float, side: str) -> None:
    """Draw an arrow at the "left" or "right" end of the axis, which marks values beyond it."""
    drawing.arrow(scale.start + 5 if side == "left" else scale.end - 5, y, side)
