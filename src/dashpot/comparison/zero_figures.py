"""Figures of grids of zeros."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dashpot.comparison.score_text import metric_text
from dashpot.comparison.zero_findings import GridFindings
from dashpot.comparison.zero_words import zero_text
from dashpot.figures import color, new_figure, tag
from dashpot.figures.tags import slug

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SHIFT = 0.12
"""Horizontal distance of the intervals of two numerators at a zero."""


def grid_figure(found: GridFindings) -> Figure:
    """Draw scores and differences against the zero, with their 95 % intervals."""
    columns = 2 if found.contrasts else 1
    figure, axes = new_figure("zeros", 1, columns, size=(3.6 * columns + 0.4, 3.2))
    _scores(axes[0], found)
    if found.contrasts:
        _differences(axes[1], found)
    return figure


def _scores(ax: Axes, found: GridFindings) -> None:
    grid = found.grid
    for index, numerator in enumerate(grid.numerators):
        cells = [(k, cell) for k, zero in enumerate(grid.zeros) if (cell := grid.cell(numerator, zero)) is not None]
        known = [(k, cell.mean, cell.low, cell.high) for k, cell in cells if cell.mean is not None]
        rows = [(k, mean, low, high) for k, mean, low, high in known]
        _series(ax, rows, f"numerator {numerator}", numerator, _offset(index, len(grid.numerators)))
    _zero_axis(ax, grid.zeros, metric_text(found.rule))
    ax.legend()


def _differences(ax: Axes, found: GridFindings) -> None:
    grid, margin = found.grid, found.rule.margin
    if margin is not None:
        band = ax.axhspan(-margin, margin, color=color("grid"), zorder=0)
        tag(band, "margin", "margin", role="band")
    ax.axhline(0)
    numerators = list(dict.fromkeys(item.numerator for item in found.contrasts))
    for index, numerator in enumerate(numerators):
        own = [(k, found.contrast(numerator, zero)) for k, zero in enumerate(grid.zeros)]
        rows: list[Any] = [
            (k, item.difference.estimate, item.difference.low, item.difference.high)
            for k, item in own
            if item is not None and item.difference is not None
        ]
        _series(ax, rows, f"numerator {numerator} minus 0", numerator, _offset(index, len(numerators)))
    _zero_axis(ax, grid.zeros, f"difference in {metric_text(found.rule)}")
    if len(numerators) > 1:
        ax.legend()


def _series(ax: Axes, rows: Sequence[Any], name: str, numerator: int, offset: float) -> None:
    """Draw the means as a line with markers, and their intervals."""
    if not rows:
        return
    key, hue = slug(name), color(numerator)
    places = [k + offset for k, *_ in rows]
    means = [mean for _, mean, _, _ in rows]
    line = ax.plot(places, means, "o-", color=hue, markersize=4, linewidth=1, label=name)[0]
    tag(line, key, name)
    limits = [
        (place, low, high)
        for place, (_, _, low, high) in zip(places, rows, strict=True)
        if low is not None and high is not None and math.isfinite(low) and math.isfinite(high)
    ]
    if limits:
        at, low, high = zip(*limits, strict=True)
        tag(ax.vlines(at, low, high, color=hue, linewidth=1.4), key, name, role="interval")


def _offset(index: int, count: int) -> float:
    return SHIFT * (index - (count - 1) / 2)


def _zero_axis(ax: Axes, zeros: Sequence[str], label: str) -> None:
    ax.set_xticks(range(len(zeros)), ["none" if zero == "none" else zero_text(zero) for zero in zeros])
    ax.set_xlim(-0.5, len(zeros) - 0.5)
    ax.set(xlabel="zero", ylabel=label)
