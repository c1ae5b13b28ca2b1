"""Labels of lines at their right ends."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dashpot.figures.style import TEXT_SIZE
from dashpot.figures.tags import LABEL, Tag, label_of, slug, tag

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LINE_HEIGHT = 1.25
"""Distance between the baselines of two labels, in units of the text size."""
LONGEST = 28
"""Number of characters above which a label takes too much of the width of a figure."""
AT_END = 0.85
"""Position along the x axis, from 0 to 1, beyond which a line counts as ending at the right."""


def label_lines(ax: Axes) -> None:
    """Label each labelled line at its right end, in the color of the line.

    The labels are placed when the figure is drawn, and moved apart if they overlap. On pages, a click on a label
    toggles its series. Markers, patches, lines that end in the left or middle part, and long labels are listed in a
    legend, and so are all lines if their labels are higher than the axes.

    Args:
        ax: Axes whose lines have been drawn.

    Example:
        >>> from dashpot.figures import new_figure
        >>> figure, [ax] = new_figure("plot")
        >>> for name, values in {"SGD": [3, 2, 1], "Adam": [3, 1, 0]}.items():
        ...     _ = ax.plot(values, label=name)
        >>> label_lines(ax)
        >>> [text.get_text() for text in ax.texts]
        ['SGD', 'Adam']
    """
    empty = [line for line in ax.lines if not np.size(line.get_xydata())]
    direct = [line for line in ax.lines if label_of(line) and line not in empty and _ends_at_right(ax, line)]
    height = ax.get_window_extent().height / ax.figure.dpi * 72
    if len(direct) * LINE_HEIGHT * TEXT_SIZE > height:
        direct = []
    group: list[Any] = []
    for line in direct:
        label = _label_class()(ax, line, group)
        found = getattr(line, "_dashpot_tag", None) or Tag(slug(label_of(line)), label_of(line), LABEL)
        ax.add_artist(tag(label, found.key, found.name, role=LABEL))
        group.append(label)
    handles, labels = ax.get_legend_handles_labels()
    rest = [pair for pair in zip(handles, labels, strict=True) if pair[0] not in (*direct, *empty)]
    if rest:
        ax.legend(*zip(*rest, strict=True))


def _ends_at_right(ax: Axes, line: Any) -> bool:
    """Return whether a line has a short label and ends near the right side."""
    finite = np.isfinite(np.asarray(line.get_xydata(), dtype=np.float64)).all(axis=1)
    if line.get_linestyle() in ("None", "", " ") or len(label_of(line)) > LONGEST or not finite.any():
        return False
    ax.get_xlim()  # computes the limits from the data
    place = ax.transAxes.inverted().transform(line.get_transform().transform(_end(line)))
    return float(place[0]) >= AT_END


def _end(line: Any) -> tuple[float, float]:
    """Return the last finite point of a line."""
    points = np.asarray(line.get_xydata(), dtype=np.float64)
    x, y = points[np.isfinite(points).all(axis=1)][-1].tolist()
    return x, y


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Return positions that are at least `gap` apart, with the least squared distance from the wanted positions.

    If the range from `low` to `high` is long enough, all positions are in it.

    >>> spread([0.0, 0.5, 10.0], gap=1.0, low=0.0, high=20.0)
    [0.0, 1.0, 10.0]
    """
    order = np.argsort(wanted, kind="stable")
    # With the gaps subtracted, the positions must only be in ascending order (isotonic regression). Blocks of equal
    # positions are merged until their means ascend.
    blocks: list[tuple[float, int]] = []
    for rank, index in enumerate(order):
        mean, count = wanted[index] - gap * rank, 1
        while blocks and blocks[-1][0] >= mean:
            before, size = blocks.pop()
            mean, count = (before * size + mean * count) / (size + count), size + count
        blocks.append((mean, count))
    flat = np.clip([mean for mean, count in blocks for _ in range(count)], low, max(low, high - gap * (len(order) - 1)))
    placed = np.empty(len(order))
    placed[order] = flat + gap * np.arange(len(order))
    return placed.tolist()


@functools.cache
def _label_class() -> Any:
    from matplotlib.text import Annotation

    class EndLabel(Annotation):
        """Text at the end of a line; before it is drawn, all labels of its group are placed without overlaps."""

        def __init__(self, ax: Any, line: Any, group: list[Any]) -> None:
            super().__init__(
                label_of(line),
                xy=_end(line),
                xytext=(5.0, 0.0),
                textcoords="offset points",
                annotation_clip=False,
                clip_on=False,
                verticalalignment="center",
                color=line.get_color(),
                fontsize=TEXT_SIZE,
            )
            self.axes = ax
            self.line, self.group = line, group

        def get_tightbbox(self, renderer: Any = None) -> Any:
            # Before the first draw, matplotlib 3.11 takes the offset for a position and ignores 0 on logarithmic axes.
            return self.get_window_extent(renderer)

        def update_positions(self, renderer: Any) -> None:
            place(self.group)
            super().update_positions(renderer)

    return EndLabel


def place(group: Sequence[Any]) -> None:
    """Set the vertical offsets of the labels of one axes."""
    ax = group[0].axes
    point = ax.figure.dpi / 72
    ends = np.array([ax.transData.transform(_end(label.line)) for label in group])
    half = LINE_HEIGHT * TEXT_SIZE * point / 2
    box = ax.bbox
    wanted = np.clip(ends[:, 1], box.y0, box.y1).tolist()
    heights = spread(wanted, 2 * half, box.y0, box.y1)
    for label, end, height in zip(group, ends, heights, strict=True):
        label.xy = _end(label.line)
        label.xyann = (5.0 + max(0.0, float(box.x1 - end[0])) / point, float(height - end[1]) / point)
