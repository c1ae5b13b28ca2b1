"""Results with a figure and an HTML page, and their figures in notebooks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from dashpot.figures import Page, render_page, svg
from dashpot.figures.exporting import export
from dashpot.figures.palette import VARIABLES
from dashpot.utils.html import element

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_NOTEBOOK_COLORS = (
    "".join(
        f"--{name}:{'currentColor' if name in ('ink', 'muted') else f'color-mix(in srgb,{hue.light},{hue.dark})'};"
        for name, hue in VARIABLES.items()
        if name not in ("grid", "paper")
    )
    + "--grid:rgba(128,128,128,.25);--paper:transparent"
)
"""Colors of figures in notebooks, legible on light and dark pages."""


class PageResult(ABC):
    """Base class of results with a page; subclasses define `plot` and `_page`."""

    @abstractmethod
    def plot(self, ax: Axes | Sequence[Axes] | None = None) -> Figure:
        """Draw the result on `ax`, or on a new figure, and return the figure."""

    @abstractmethod
    def _page(self, command: str) -> Page:
        """Return the content of the page."""

    def page(self, command: str = "") -> str:
        """Return a self-contained HTML page with sentences, tables and figures.

        Args:
            command: Command to show on the page.

        Raises:
            ArgumentError: If matplotlib or jinja2 is not installed.
        """
        return render_page(self._page(command))

    def save(self, path: Path | str, command: str = "") -> Path:
        """Write the page to an HTML file, or the figure to a PNG, PDF or SVG file, and return the path.

        Raises:
            ArgumentError: If `path` has a different suffix, or matplotlib or jinja2 is not installed.
            RunError: If the file cannot be written.
        """
        return export(Path(path), self.plot, lambda: self._page(command))

    def _inline_figure(self, key: str, title: str) -> str:
        """Return the figure as HTML for notebooks; without matplotlib, nothing."""
        if find_spec("matplotlib") is None:
            return ""
        return element("div", svg(self.plot(), key=key, title=title), _NOTEBOOK_COLORS)
