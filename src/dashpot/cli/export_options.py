"""Files of figures and pages that commands write."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dashpot.runs.files import check_writable


def check_export_files(owner: str, plot: Path | None, html: Path | None) -> None:
    """Check suffixes, packages and folders of the files of --plot and --html, before anything is computed.

    Raises:
        ArgumentError: If a suffix is not supported or a package is missing.
        RunError: If a file cannot be written.
    """
    if plot is None and html is None:
        return
    from dashpot.figures.exporting import FIGURES, PAGES, check_export

    for path, suffixes in ((plot, FIGURES), (html, PAGES)):
        if path is not None:
            check_export(owner, path, suffixes)
            check_writable(path)


def write_exports(result: Any, plot: Path | None, html: Path | None, *, command: str, is_quiet: bool) -> None:
    """Save a result to the files of --plot and --html, and print their paths unless `is_quiet` is True."""
    for label, path in (("Plot", plot), ("Page", html)):
        if path is not None:
            result.save(path, command=command)
            if not is_quiet:
                print(f"{label}: {path}")
