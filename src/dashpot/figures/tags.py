"""Series of a figure: artists with a key, by which pages toggle them and show their values."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from dashpot.constraints import shown
from dashpot.errors import ArgumentError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Drawn = TypeVar("Drawn")
KEY = re.compile(r"[A-Za-z0-9_.+-]+")
VALUES, LABEL = "values", "label"
"""Roles of artists whose values are shown on hover, and of the text that names a series."""


class Tag(NamedTuple):
    """Key, displayed name and role of an artist."""

    key: str
    name: str
    role: str


def tag(artist: Drawn, key: str, name: str | None = None, *, role: str = VALUES) -> Drawn:
    """Mark an artist as a part of a series.

    Pages toggle all artists with the same key together. Lines and scatter plots with the default role show their values
    on hover. `svg` treats labelled lines without a tag as series whose key is derived from the label.

    Args:
        artist: Matplotlib artist, such as a line, a collection, a patch or a text.
        key: Identifier of the series, with letters, digits, and any of `_.+-`; the same in all figures of a page.
        name: Displayed name. Default: the label of the artist, or `key` if it has none.
        role: "values"; or a name such as "band" for artists without values.

    Returns:
        The artist.

    Raises:
        ArgumentError: If `key` contains other characters.

    Example:
        >>> from dashpot.figures import new_figure
        >>> figure, [ax] = new_figure("plot")
        >>> [line] = ax.plot([1, 2, 3], label="SGD")
        >>> tag(line, "sgd").get_gid()
        'sgd'
    """
    if not isinstance(key, str) or not KEY.fullmatch(key):
        raise ArgumentError(f"tag: key must be a name of letters, digits, '_', '.', '+' and '-', got {shown(key)}.")
    target: Any = artist
    label = str(target.get_label())
    target._dashpot_tag = Tag(key, name or (key if label.startswith("_") or not label else label), role)
    target.set_gid(key)
    return artist


def slug(text: str) -> str:
    """Return a key for a text.

    >>> slug("SGD, lr 0.1")
    'sgd-lr-0.1'
    """
    return "-".join(KEY.findall(text.lower())) or "series"


def label_of(artist: Any) -> str:
    """Return the label of an artist that appears in legends, or an empty string."""
    label = str(artist.get_label())
    return "" if label.startswith("_") else label


def tags_of(figure: Figure) -> Iterator[tuple[Axes, Any, Tag]]:
    """Yield the axes, artist and tag of each tagged artist and each labelled line, in drawing order."""
    for ax in figure.axes:
        for artist in ax.get_children():
            found = getattr(artist, "_dashpot_tag", None)
            if found is None and label_of(artist) and hasattr(artist, "get_gid") and artist in _series(ax):
                found = Tag(slug(label_of(artist)), label_of(artist), VALUES)
            if found is not None and artist.get_visible():
                yield ax, artist, found


def _series(ax: Axes) -> list[Any]:
    return [*ax.lines, *ax.collections]
