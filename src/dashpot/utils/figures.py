"""Matplotlib figures that do not depend on pyplot and its global state."""

from __future__ import annotations

import functools
import io
from typing import TYPE_CHECKING, Any

from dashpot.errors import ArgumentError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def new_figure(
    owner: str, rows: int = 1, columns: int = 1, *, size: tuple[float, float] = (6.4, 3.2), sharex: bool = False
) -> tuple[Figure, list[Axes]]:
    """Return a figure with a grid of axes, and the axes in row-major order.

    Notebooks display the figure; `figure.savefig(path)` writes it.

    Args:
        owner: Name of the calling function, for error messages.
        rows: Number of rows of axes.
        columns: Number of columns of axes.
        size: Width and height in inches.
        sharex: Whether the axes of a column share their x axis.

    Raises:
        ArgumentError: If matplotlib is not installed.

    >>> figure, axes = new_figure("plot", rows=2)
    >>> len(axes), figure.get_size_inches().tolist()
    (2, [6.4, 3.2])
    """
    try:
        figure = _figure_class()(figsize=size, layout="constrained")
    except ImportError as error:
        raise ArgumentError(f"{owner} needs matplotlib: pip install 'dashpot[plot]'.") from error
    axes = list(figure.subplots(rows, columns, sharex=sharex, squeeze=False).flat)
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(alpha=0.25)
    return figure, axes


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
