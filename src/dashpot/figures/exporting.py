"""Files that commands write: a page or a figure, by the suffix of the path."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from dashpot.errors import ArgumentError
from dashpot.figures.axes import new_figure
from dashpot.figures.page import Page, write_page
from dashpot.figures.saving import FORMATS, save

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAGES = (".html", ".htm")


def check_export(owner: str, path: Path) -> None:
    """Check the suffix of a path and that matplotlib is installed, before an expensive computation.

    Raises:
        ArgumentError: If the suffix is unknown or matplotlib is not installed.

    >>> check_export("lr-find", Path("curve.jpg"))
    Traceback (most recent call last):
    dashpot.errors.ArgumentError: lr-find: the file must end with .html, .png, .pdf or .svg, got 'curve.jpg'.
    """
    if path.suffix.lower() not in (*PAGES, *FORMATS):
        raise ArgumentError(f"{owner}: the file must end with .html, .png, .pdf or .svg, got {str(path)!r}.")
    new_figure(owner)


def export(path: Path, figure: Callable[[], Figure], page: Callable[[], Page]) -> Path:
    """Write the page to an HTML file, or the figure to a PNG, PDF or SVG file, and return the path."""
    return write_page(page(), path) if path.suffix.lower() in PAGES else save(figure(), path)
