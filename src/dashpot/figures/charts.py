"""Figures as elements of pages: SVG for wide and narrow screens, and a legend that toggles series."""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from dashpot.figures.inline_svg import Series, draw_svg
from dashpot.figures.method_styles import Style
from dashpot.figures.palette import css_color
from dashpot.figures.style import DASHES, LINE_WIDTH
from dashpot.figures.tags import LABEL, tags_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NARROW_WIDTH = 3.9
"""Width in inches of the drawing for narrow screens, on which text keeps its size."""
MOST_ASPECT = 0.85
HINT = "Click: show or hide. Double-click: show only this series, or all."


def chart(figure: Figure, *, key: str, title: str) -> str:
    """Return a figure as a `figure` element, with a legend if any axes has several series.

    Args:
        figure: Matplotlib figure.
        key: Prefix of the ids, unique on the page.
        title: Accessible title.
    """
    drawn, series = _drawn(figure, key, title)
    entries = _merged([item for own in series if len(own) > 1 for item in own])
    buttons = legend_buttons(entries) if entries else ""
    return f'<figure id="{html.escape(key)}-figure">\n{drawn}\n{buttons}</figure>'


def _merged(series: Sequence[Series]) -> list[Series]:
    """Return one legend entry per name, which toggles all series with this name."""
    entries: dict[str, Series] = {}
    for item in series:
        first = entries.setdefault(item.name, item)
        if item.key not in first.key.split():
            entries[item.name] = first._replace(key=f"{first.key} {item.key}")
    return list(entries.values())


def _drawn(figure: Figure, key: str, title: str) -> tuple[str, list[list[Series]]]:
    """Return the drawings, and the series of each axes."""
    with _without_legends(figure):
        wide = draw_svg(figure, key=key, title=title)
        with _narrow(figure):
            narrow = draw_svg(figure, key=f"{key}-narrow", title=title, values=False)
    label = f"{html.escape(title)}: the arrow keys show the values"
    drawn = "\n".join(
        f'<div class="plot {kind}" tabindex="0" role="group" aria-label="{label}">{drawing.svg}</div>'
        for kind, drawing in (("wide", wide), ("narrow", narrow))
    )
    return drawn, wide.series


def legend_entry(name: str, style: Style) -> Series:
    """Return the legend entry of a method."""
    pattern = DASHES[style.dash]
    dashes = "" if pattern == "solid" else ",".join(f"{length * LINE_WIDTH:g}" for length in pattern[1])
    return Series(name, name, css_color(style.hue.light), dashes, "line")


def legend_buttons(series: Sequence[Series]) -> str:
    """Return a legend with a button for each series."""
    buttons = "\n".join(
        f'<button type="button" aria-pressed="true" data-toggle="{html.escape(item.key)}" title="{HINT}">'
        f"{swatch(item)} {html.escape(item.name)}</button>"
        for item in series
    )
    return f'<div class="legend" role="group" aria-label="Series shown">\n{buttons}\n</div>\n'


def swatch(item: Series) -> str:
    """Return a small picture of the line or marker of a series."""
    if item.kind == "marker":
        shape = f'<circle cx="12" cy="4" r="3.5" style="fill:{item.color}"/>'
    else:
        shape = f'<line x1="0" y1="4" x2="24" y2="4" stroke-dasharray="{item.dashes}" style="stroke:{item.color}"/>'
    faint = f' style="opacity:{item.opacity:g}"' if item.opacity < 1 else ""
    return f'<svg class="swatch" viewBox="0 0 24 8" aria-hidden="true"{faint}>{shape}</svg>'


@contextmanager
def _without_legends(figure: Figure) -> Iterator[None]:
    """Hide legends whose entries are series, because the page has a legend of buttons."""
    names = {tag.name for _, _, tag in tags_of(figure)}
    every = [*(ax.get_legend() for ax in figure.axes), *figure.legends]
    hidden = [
        legend for legend in every if legend is not None and {text.get_text() for text in legend.get_texts()} <= names
    ]
    with _invisible(hidden):
        yield


@contextmanager
def _narrow(figure: Figure) -> Iterator[None]:
    """Resize a figure for narrow screens: one column of axes, without labels at the ends of lines."""
    from matplotlib.gridspec import GridSpec

    size = tuple(figure.get_size_inches())
    specs = [(ax, spec) for ax in figure.axes if (spec := ax.get_subplotspec()) is not None]
    columns = max((spec.get_gridspec().ncols for _, spec in specs), default=1)
    rows = max((spec.get_gridspec().nrows for _, spec in specs), default=1)
    labels = [artist for _, artist, tag in tags_of(figure) if tag.role == LABEL]
    height = min(size[1] / rows, NARROW_WIDTH * MOST_ASPECT) * rows * columns
    grid = GridSpec(rows * columns, 1, figure=figure)
    try:
        if columns > 1 and all(spec.num1 == spec.num2 for _, spec in specs):
            for ax, spec in specs:
                ax.set_subplotspec(grid[spec.num1])
        figure.set_size_inches(NARROW_WIDTH, height)
        with _invisible(labels):
            yield
    finally:
        for ax, spec in specs:
            ax.set_subplotspec(spec)
        figure.set_size_inches(size)


@contextmanager
def _invisible(artists: Sequence[Any]) -> Iterator[None]:
    for artist in artists:
        artist.set_visible(False)
    try:
        yield
    finally:
        for artist in artists:
            artist.set_visible(True)
