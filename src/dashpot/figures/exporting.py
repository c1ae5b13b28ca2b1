"""Files that commands write: a page or a figure, by the suffix of the path."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dashpot.errors import ArgumentError
from dashpot.figures.axes import new_figure
from dashpot.figures.page import Page, write_page
from dashpot.figures.saving import FORMATS, save

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAGES = (".html",)
FIGURES = tuple(FORMATS)


def check_export(owner: str, path: Path, suffixes: Sequence[str] = (*PAGES, *FIGURES)) -> None:
    """Check the suffix of a path and that matplotlib is installed, before an expensive computation.

    Args:
        owner: Name of the command, for error messages.
        path: File that `export` will write.
        suffixes: Accepted suffixes.

    Raises:
        ArgumentError: If the suffix is not accepted or matplotlib is not installed.

    >>> check_export("lr-find", Path("curve.jpg"))
    Traceback (most recent call last):
    dashpot.errors.ArgumentError: lr-find: the file must end with .html, .png, .pdf or .svg, got 'curve.jpg'.
    """
    if path.suffix.lower() not in suffixes:
        *others, last = suffixes
        allowed = f"{', '.join(others)} or {last}" if others else last
        raise ArgumentError(f"{owner}: the file must end with {allowed}, got {str(path)!r}.")
    new_figure(owner)


def export(path: Path, figure: Callable[[], Figure], page: Callable[[], Page]) -> Path:
    """Write the page to an HTML file, or the figure to a PNG, PDF or SVG file, and return the path."""
    return write_page(page(), path) if path.suffix.lower() in PAGES else save(figure(), path)
