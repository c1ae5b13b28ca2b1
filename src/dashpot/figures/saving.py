"""Files of figures."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dashpot.errors import ArgumentError, RunError
from dashpot.utils.atomic_files import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = {".png": "png", ".pdf": "pdf", ".svg": "svg"}
DPI = 200
NO_DATE: dict[str, dict[str, Any]] = {"png": {}, "pdf": {"CreationDate": None}, "svg": {"Date": None}}


def save(figure: Figure, path: Path | str) -> Path:
    """Write a figure to a PNG, PDF or SVG file; no browser is needed.

    The file is written atomically and contains no date, so equal figures result in equal files. Missing folders are
    created. Text in PDF and SVG files remains text.

    Args:
        figure: Matplotlib figure.
        path: File name that ends with .png, .pdf or .svg.

    Returns:
        The path.

    Raises:
        ArgumentError: If the file name has another suffix.
        RunError: If the file cannot be written.

    Example:
        >>> import tempfile
        >>> from dashpot.figures import new_figure
        >>> figure, [ax] = new_figure("plot", size=(3, 2))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save(figure, Path(folder, "plot.png")).name
        'plot.png'
    """
    path = Path(path)
    kind = FORMATS.get(path.suffix.lower())
    if kind is None:
        raise ArgumentError(f"save: path must end with one of {', '.join(FORMATS)}, got {str(path)!r}.")
    from matplotlib import rc_context

    buffer = io.BytesIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": path.name, "pdf.fonttype": 42}):
        figure.savefig(buffer, format=kind, dpi=DPI, metadata=NO_DATE[kind])
    return write_file(path, buffer.getvalue())


def write_file(path: Path, content: bytes) -> Path:
    """Write a file atomically.

    Raises:
        RunError: If the file cannot be written.
    """
    try:
        write_atomically(path, lambda stream: stream.write(content))
    except OSError as error:
        raise RunError(f"Cannot write {path}: {error.strerror or error}.") from error
    return path
