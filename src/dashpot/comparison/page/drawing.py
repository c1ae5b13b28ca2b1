"""Elements of charts as SVG: axes, lines, bands, marks, and the values that the script of a page shows.

Figures of matplotlib would exceed the limit of the size of a page: each panel repeats the curves of all methods, and
each figure has a second drawing for narrow screens. The page of 9 methods with 5 seeds and tuning would have 1200 kB
instead of 340 kB.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dashpot.comparison.page.scales import Scale
from dashpot.figures.inline_svg import embedded_json
from dashpot.figures.series_data import rounded, simplify

Point = tuple[float, float]

TOLERANCE = 0.2
"""Largest distance in pixels between a line and the simplified line."""


@dataclass(frozen=True)
class Readout:
    """Series of values that a pointer, a finger or the arrow keys show.

    Args:
        name: Displayed name.
        xs: Positions along the x axis.
        ys: Values.
        color: CSS color.
        steps: Whether a value holds until the next position.
    """

    name: str
    xs: Sequence[float]
    ys: Sequence[float]
    color: str
    steps: bool = False


@dataclass(frozen=True)
class Frame:
    """Axes of a chart: size of the drawing, scales, and names of the quantities.

    The x scale ends at the left and right sides of the plotted area, the y scale at its bottom and top.
    """

    width: float
    height: float
    x: Scale
    y: Scale
    x_name: str
    y_name: str

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Left, top, right and bottom of the plotted area."""
        return self.x.start, self.y.end, self.x.end, self.y.start

    def at(self, x: float, y: float) -> Point:
        """Return the position of a point."""
        return self.x.place(x), self.y.place(y)

    def data(self, series: Iterable[Readout]) -> dict[str, Any]:
        """Return the values of a chart in the form of the script of pages.

        Without values, the script uses those of the drawing before in the same figure.
        """
        axis = {
            "box": [round(side, 1) for side in self.box],
            "x": [self.x.low, self.x.high, "log" if self.x.log else "linear"],
            "y": [self.y.low, self.y.high, "log" if self.y.log else "linear"],
            "xl": self.x_name,
            "yl": self.y_name,
        }
        places: list[list[float | None]] = []
        items = []
        for index, item in enumerate(series):
            xs = rounded(item.xs)
            if xs not in places:
                places.append(xs)
            entry = {"k": f"s{index}", "n": item.name, "a": 0, "x": places.index(xs), "c": item.color}
            entry["y"] = rounded(item.ys)
            items.append(entry | ({"s": 1} if item.steps else {}))
        return {"axes": [axis], "xs": places, "series": items} if items else {"axes": [axis]}


@dataclass
class Drawing:
    """Body of an SVG element, built up in drawing order.

    Classes of the style sheet determine the appearance; many of them use the color of the group.
    """

    parts: list[str] = field(default_factory=list)

    def add(self, text: str) -> None:
        """Append an element."""
        self.parts.append(text)

    def colored(self, color: str, other: Drawing) -> None:
        """Append the elements of a drawing as a group with a color."""
        self.add(f'<g style="color:{color}">{other.body()}</g>')

    def line(self, x1: float, y1: float, x2: float, y2: float, kind: str) -> None:
        """Append a straight line of a class."""
        self.add(f'<path class="{kind}" d="M{short(x1)} {short(y1)}L{short(x2)} {short(y2)}"/>')

    def text(self, x: float, y: float, text: str, kind: str, anchor: str = "start") -> None:
        """Append escaped text."""
        side = "" if anchor == "start" else f' text-anchor="{anchor}"'
        self.add(f'<text class="{kind}" x="{short(x)}" y="{short(y)}"{side}>{html.escape(text)}</text>')

    def rectangle(self, left: float, top: float, right: float, bottom: float, kind: str) -> None:
        """Append a filled rectangle."""
        size = f'width="{short(right - left)}" height="{short(bottom - top)}"'
        self.add(f'<rect class="{kind}" x="{short(left)}" y="{short(top)}" {size}/>')

    def dot(self, x: float, y: float, radius: float, kind: str) -> None:
        """Append a filled circle."""
        self.add(f'<circle class="{kind}" cx="{short(x)}" cy="{short(y)}" r="{short(radius)}"/>')

    def arrow(self, x: float, y: float, direction: str) -> None:
        """Append a small triangle, which marks a value beyond the edge of the axes."""
        dx, dy = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}[direction]
        tip, back = (x + 4 * dx, y + 4 * dy), (x - 3 * dx, y - 3 * dy)
        corners = [tip, (back[0] + 4 * dy, back[1] + 4 * dx), (back[0] - 4 * dy, back[1] - 4 * dx)]
        self.add(f'<path class="beyond" d="{polyline(corners)}z"/>')

    def path(self, points: Sequence[Point], kind: str) -> None:
        """Append a polyline of a class; points that are not finite interrupt it."""
        text = polyline(simplified(points))
        if text:
            self.add(f'<path class="{kind}" d="{text}"/>')

    def body(self) -> str:
        """Return the elements."""
        return "".join(self.parts)


def short(value: float) -> str:
    """Return a coordinate rounded to 1/10 pixel.

    >>> short(3.0), short(2.345), short(-0.04)
    ('3', '2.3', '0')
    """
    text = f"{value:.1f}".removesuffix(".0")
    return "0" if text == "-0" else text


def polyline(points: Iterable[Point]) -> str:
    """Return the path of straight lines between points; points that are not finite interrupt it.

    >>> polyline([(0, 1), (2, 3), (float("nan"), 0), (4, 5), (6, 7)])
    'M0 1L2 3M4 5L6 7'
    """
    text, command = [], "M"
    for x, y in points:
        if math.isfinite(x) and math.isfinite(y):
            text.append(f"{command}{short(x)} {short(y)}")
            command = "L"
        else:
            command = "M"
    return "".join(text)


def simplified(points: Sequence[Point]) -> Sequence[Point]:
    """Return a polyline without points that are closer than `TOLERANCE` to it, unless a point is not finite."""
    array = np.array(points, dtype=np.float64).reshape(-1, 2)
    if len(array) < 3 or not np.isfinite(array).all():
        return points
    return [points[index] for index in simplify(array, TOLERANCE).tolist()]


def clipped(frame: Frame, body: str) -> str:
    """Return elements in the coordinates of the whole drawing, clipped at the axes."""
    left, top, right, bottom = frame.box
    size = f'x="{short(left)}" y="{short(top)}" width="{short(right - left)}" height="{short(bottom - top)}"'
    view = f"{short(left)} {short(top)} {short(right - left)} {short(bottom - top)}"
    return f'<svg class="clip" {size} viewBox="{view}">{body}</svg>'


def axes(frame: Frame, x_ticks: Sequence[tuple[float, str]] | None = None) -> str:
    """Return grid lines, ticks and labels; labels that would leave the drawing are anchored at its side."""
    left, _, right, bottom = frame.box
    drawing = Drawing()
    for value, label in frame.y.ticks(4):
        y = frame.y.place(value)
        drawing.line(left, y, right, y, "grid")
        drawing.text(left - 5, y + 3.5, label, "tick", "end")
    for value, label in frame.x.ticks(4) if x_ticks is None else x_ticks:
        x = frame.x.place(value)
        drawing.line(x, bottom, x, bottom + 3, "axis")
        near_end = frame.width - x < 3.2 * len(label)
        drawing.text(frame.width if near_end else x, bottom + 14, label, "tick", "end" if near_end else "middle")
    drawing.line(left, bottom, right, bottom, "axis")
    drawing.text((left + right) / 2, bottom + 27, frame.x_name, "name", "middle")
    return drawing.body()


def plot(frame: Frame, title: str, body: str, series: Iterable[Readout], kind: str = "") -> str:
    """Return a drawing with its values, as an element that the script of pages makes interactive."""
    label = html.escape(title)
    return (
        f'<div class="plot{" " + kind if kind else ""}" tabindex="0" role="group" '
        f'aria-label="{label}: the arrow keys show the values">'
        f'<svg class="dashpot-figure" viewBox="0 0 {short(frame.width)} {short(frame.height)}" role="img" '
        f'style="max-width:{frame.width * 1.15:.0f}px"><title>{label}</title>'
        f"<metadata>{embedded_json(frame.data(series))}</metadata>{body}</svg></div>"
    )
