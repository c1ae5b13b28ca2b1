"""Matplotlib figures that do not depend on pyplot and its global state."""

from __future__ import annotations

import functools
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dashpot.constraints import shown
from dashpot.errors import ArgumentError
from dashpot.figures.palette import INK, MUTED
from dashpot.figures.style import TEXT_SIZE, TITLE_SIZE, style_settings, style_ticks

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS = 3
"""Largest number of columns of `new_panels`."""
REFERENCE = {"color": MUTED.light, "linewidth": 0.8}
"""Style of reference lines."""


def new_figure(
    owner: str,
    rows: int = 1,
    columns: int = 1,
    *,
    size: tuple[float, float] = (6.4, 3.2),
    sharex: bool = False,
    ax: Axes | Sequence[Axes] | None = None,
) -> tuple[Figure, list[Axes]]:
    """Return a figure with a grid of axes in the house style, and the axes in row-major order.

    Notebooks display the figure; `save` writes it to a file, and `svg` returns it for a page. The settings of
    matplotlib are unchanged, and given axes keep their own style.

    Args:
        owner: Name of the calling function, for error messages.
        rows: Number of rows of axes.
        columns: Number of columns of axes.
        size: Width and height in inches.
        sharex: Whether the axes of a column share their x axis.
        ax: Axes to draw on, `rows * columns` of them, in place of a new figure; their figure is returned.

    Raises:
        ArgumentError: If matplotlib is not installed, or the number of `ax` differs from `rows * columns`.

    Example:
        >>> figure, axes = new_figure("plot", rows=2)
        >>> len(axes), figure.get_size_inches().tolist()
        (2, [6.4, 3.2])
    """
    if ax is not None:
        return _given(owner, rows * columns, ax)
    try:
        from matplotlib import rc_context

        new = _figure_class()
    except ImportError as error:
        raise ArgumentError(f"{owner} needs matplotlib: pip install 'dashpot[plot]'.") from error
    settings: Any = style_settings()
    with rc_context(settings):
        figure = new(figsize=size, layout="constrained")
        grid = figure.subplots(rows, columns, sharex=sharex, squeeze=False, subplot_kw={"axes_class": _axes_class()})
        axes = list(grid.flat)
        for panel in axes:
            style_ticks(panel)
    return figure, axes


def new_panels(
    owner: str, count: int, *, size: tuple[float, float], ax: Axes | Sequence[Axes] | None = None
) -> tuple[Figure, list[Axes]]:
    """Return a figure with `count` axes in rows of at most three, and the axes.

    Args:
        owner: Name of the calling function, for error messages.
        count: Number of axes, >= 1.
        size: Width and height of one of them in inches.
        ax: Axes to draw on in place of a new figure.

    Raises:
        ArgumentError: As for `new_figure`.
    """
    if ax is not None:
        return new_figure(owner, columns=count, ax=ax)
    columns = min(count, COLUMNS)
    rows = -(-count // columns)
    figure, axes = new_figure(owner, rows, columns, size=(size[0] * columns, size[1] * rows))
    for unused in axes[count:]:
        unused.remove()
    return figure, axes[:count]


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


@functools.cache
def _axes_class() -> Any:
    from matplotlib.axes import Axes

    class HouseAxes(Axes):
        """Axes whose titles, legends and reference lines, which are created later, follow the house style."""

        def set_title(self, label: str, fontdict: Any = None, loc: Any = "left", *args: Any, **options: Any) -> Any:
            defaults = {"fontsize": TITLE_SIZE, "color": INK.light}
            return super().set_title(label, fontdict, loc, *args, **{**defaults, **options})

        def axhline(self, y: float = 0, *args: Any, **options: Any) -> Any:
            return super().axhline(y, *args, **{**REFERENCE, **options})

        def axvline(self, x: float = 0, *args: Any, **options: Any) -> Any:
            return super().axvline(x, *args, **{**REFERENCE, **options})

        def get_title(self, loc: Any = "left") -> str:
            return super().get_title(loc)

        def legend(self, *args: Any, **options: Any) -> Any:
            defaults = {"frameon": False, "fontsize": TEXT_SIZE, "labelcolor": INK.light}
            return super().legend(*args, **{**defaults, **options})

    return HouseAxes
