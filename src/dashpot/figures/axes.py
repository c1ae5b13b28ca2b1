"""Matplotlib figures that do not depend on pyplot and its global state."""

from __future__ import annotations

import functools
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dashpot.constraints import shown
from dashpot.errors import ArgumentError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def new_figure(
    owner: str,
    rows: int = 1,
    columns: int = 1,
    *,
    size: tuple[float, float] = (6.4, 3.2),
    sharex: bool = False,
    ax: Axes | Sequence[Axes] | None = None,
) -> tuple[Figure, list[Axes]]:
    """Return a figure with a grid of axes, and the axes in row-major order.

    Notebooks display the figure; `figure.savefig(path)` writes it.

    Args:
        owner: Name of the calling function, for error messages.
        rows: Number of rows of axes.
        columns: Number of columns of axes.
        size: Width and height in inches.
        sharex: Whether the axes of a column share their x axis.
        ax: Axes to draw on, `rows * columns` of them, in place of a new figure; their figure is returned.

    Raises:
        ArgumentError: If matplotlib is not installed, or the number of `ax` differs from `rows * columns`.

    >>> figure, axes = new_figure("plot", rows=2)
    >>> len(axes), figure.get_size_inches().tolist()
    (2, [6.4, 3.2])
    """
    if ax is not None:
        return _given(owner, rows * columns, ax)
    try:
        figure = _figure_class()(figsize=size, layout="constrained")
    except ImportError as error:
        raise ArgumentError(f"{owner} needs matplotlib: pip install 'dashpot[plot]'.") from error
    axes = list(figure.subplots(rows, columns, sharex=sharex, squeeze=False).flat)
    for panel in axes:
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(alpha=0.25)
    return figure, axes


def _given(owner: str, count: int, ax: Any) -> tuple[Figure, list[Axes]]:
    axes = list(ax.flat) if hasattr(ax, "flat") else list(ax) if isinstance(ax, Sequence) else [ax]
    if len(axes) != count or not all(hasattr(item, "plot") for item in axes):
        expected = "matplotlib axes" if count == 1 else f"a sequence of {count} matplotlib axes"
        raise ArgumentError(f"{owner}: ax must be {expected}, got {shown(ax)}.")
    return axes[0].figure, axes


@functools.cache
def _figure_class() -> Any:
    from matplotlib.figure import Figure

    class NotebookFigure(Figure):
        """Figure that notebooks display even if pyplot is not imported."""

        def _repr_png_(self) -> bytes:
            buffer = io.BytesIO()
            self.savefig(buffer, format="png", dpi=100)
            return buffer.getvalue()

    return NotebookFigure
