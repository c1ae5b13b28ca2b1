"""Values of the series of a figure, as data for the readout of a page."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from dashpot.figures.palette import css_color
from dashpot.figures.tags import VALUES, Tag

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = npt.NDArray[np.float64]

MOST_VALUES = 160
"""Largest number of points of a series whose values are embedded in a page."""
MOST_POINTS = 600
"""Number of points above which a drawn line is thinned."""
DIGITS = 5
TABLE = 33
"""Number of positions that describe an axis that is neither linear nor logarithmic."""


def series_data(figure: Figure, tagged: Sequence[tuple[Axes, Any, Tag]]) -> dict[str, Any]:
    """Return the axes and the values of the tagged series as JSON-serializable data, after the figure is drawn."""
    every = list(dict.fromkeys(ax for ax, _, _ in tagged))
    places: list[list[float | None]] = []
    series = []
    for ax, artist, tag in tagged:
        points = _points(ax, artist) if tag.role == VALUES else None
        if points is None or not len(points):
            continue
        x, y = (rounded(column.tolist()) for column in _evenly(points).T)
        if x not in places:
            places.append(x)
        item = {"k": tag.key, "n": tag.name, "a": every.index(ax), "x": places.index(x), "y": y}
        if getattr(artist, "get_drawstyle", str)() == "steps-post":
            item["s"] = 1
        series.append(item | {"c": css_color(series_color(artist))})
    return {"axes": axes_data(figure, every), "xs": places, "series": series}


def axes_data(figure: Figure, every: Sequence[Axes]) -> list[dict[str, Any]]:
    """Return the place of each axes in the SVG, the ranges of its axes, and their labels."""
    return [_axes(figure, ax) for ax in every]


def _axes(figure: Figure, ax: Axes) -> dict[str, Any]:
    width, height = figure.get_size_inches() * 72
    box = ax.get_position(original=False)
    corners = [box.x0 * width, (1 - box.y1) * height, box.x1 * width, (1 - box.y0) * height]
    return {
        "box": [round(float(corner), 2) for corner in corners],
        "x": _range(ax, "x"),
        "y": _range(ax, "y"),
        "xl": ax.get_xlabel(),
        "yl": ax.get_ylabel(),
    }


def _range(ax: Axes, name: str) -> list[Any]:
    """Return low, high and scale of an axis: "linear", "log", or values at equal distances along the axis."""
    low, high = (float(value) for value in getattr(ax, f"get_{name}lim")())
    scale = getattr(ax, f"get_{name}scale")()
    if scale in ("linear", "log"):
        return [low, high, scale]
    column = "xy".index(name)
    places = np.zeros((TABLE, 2))
    places[:, column] = np.linspace(0, 1, TABLE)
    values = ax.transData.inverted().transform(ax.transAxes.transform(places))[:, column]
    return [low, high, rounded(values.tolist())]


def series_color(artist: Any) -> str:
    """Return the color of a line, collection or patch in hexadecimal, without transparency."""
    from matplotlib.colors import to_hex

    read = getattr(artist, "get_color", None) or artist.get_facecolor
    if len(read()) == 0:  # markers without a face
        read = artist.get_edgecolor
    value = np.asarray(read(), dtype=object)
    color: Any = tuple(value[0]) if value.ndim == 2 and len(value) else read()
    return to_hex(color)


def _points(ax: Axes, artist: Any) -> Array | None:
    """Return the points of a line or scatter plot in data coordinates; None for other artists."""
    from matplotlib.collections import PathCollection
    from matplotlib.lines import Line2D

    if isinstance(artist, PathCollection):
        return np.asarray(artist.get_offsets(), dtype=np.float64)
    if isinstance(artist, Line2D) and all(artist.get_transform().contains_branch_seperately(ax.transData)):
        return np.asarray(artist.get_xydata(), dtype=np.float64)
    return None


def is_curve(ax: Axes, artist: Any) -> bool:
    """Return whether an artist is a line with points in data coordinates."""
    return hasattr(artist, "get_xydata") and _points(ax, artist) is not None


def _evenly(points: Array) -> Array:
    return points[evenly_spaced(len(points), MOST_VALUES)]


def evenly_spaced(count: int, most: int) -> npt.NDArray[np.intp]:
    """Return at most `most` of the indices below `count` at equal distances, including both ends.

    >>> evenly_spaced(9, 3).tolist(), evenly_spaced(2, 3).tolist(), evenly_spaced(0, 3).tolist()
    ([0, 4, 8], [0, 1], [])
    """
    return np.linspace(0, count - 1, min(most, count)).round().astype(np.intp)


def rounded(values: Iterable[float]) -> list[float | None]:
    """Return numbers with five significant digits, and None for infinity and NaN.

    >>> rounded([0.1234567, 3.0, float("inf")])
    [0.12346, 3, None]
    """
    return [_number(value) for value in values]


def _number(value: float) -> float | None:
    if not math.isfinite(value):
        return None
    number = float(f"{value:.{DIGITS}g}")
    return int(number) if number.is_integer() and abs(number) < 1e15 else number


def thinned(points: Array) -> Array:
    """Return the first, lowest, highest and last point of each of many sections of a line, in order.

    The drawn line looks the same, because the sections are narrower than a pixel.

    >>> thinned(np.column_stack([np.arange(10_000.0), np.zeros(10_000)])).shape[0] <= MOST_POINTS
    True
    """
    if len(points) <= MOST_POINTS:
        return points
    edges = np.linspace(0, len(points), MOST_POINTS // 4 + 1).astype(int)
    chosen: set[int] = set()
    for start, end in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        heights = points[start:end, 1]
        chosen |= {start, end - 1}
        if not np.isnan(heights).all():
            chosen |= {start + int(np.nanargmin(heights)), start + int(np.nanargmax(heights))}
    return points[sorted(chosen)]


def condensed(points: Array, width: float) -> Array:
    """Return a polyline with the first, lowest, highest and last point in each column of the given width.

    The columns are formed within sections in which x rises or falls, such as the two sides of a band.
    """
    if len(points) <= MOST_POINTS:
        return points
    column = np.floor(points[:, 0] / width)
    starts = np.flatnonzero(np.diff(column, prepend=np.nan))  # a column that is visited again counts again
    parts = []
    for start, end in zip(starts.tolist(), [*starts[1:].tolist(), len(points)], strict=True):
        heights = points[start:end, 1]
        parts.append(sorted({start, end - 1, start + int(heights.argmin()), start + int(heights.argmax())}))
    return points[[index for part in parts for index in part]]


def simplify(points: Array, tolerance: float) -> npt.NDArray[np.intp]:
    """Return the indices of the points of a polyline to which all other points are close (Douglas and Peucker).

    >>> simplify(np.array([[0.0, 0.0], [1.0, 0.01], [2.0, 0.0], [2.0, 5.0]]), tolerance=0.1).tolist()
    [0, 2, 3]
    """
    keep = np.zeros(len(points), dtype=bool)
    keep[[0, -1]] = True
    sections = [(0, len(points) - 1)]
    while sections:
        start, end = sections.pop()
        if end - start < 2:
            continue
        inner, origin, span = points[start + 1 : end], points[start], points[end] - points[start]
        length = float(np.hypot(*span))
        relative = inner - origin
        if length > 0:
            along = np.clip(relative @ span / length**2, 0, 1)
            relative = relative - along[:, None] * span
        distances = np.hypot(relative[:, 0], relative[:, 1])
        farthest = int(distances.argmax())
        if distances[farthest] > tolerance:
            middle = start + 1 + farthest
            keep[middle] = True
            sections += [(start, middle), (middle, end)]
    return np.flatnonzero(keep)
