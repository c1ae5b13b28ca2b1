"""Files of final figures: JSON lines, each an object, written atomically and checked when read."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from dashpot.errors import RunError
from dashpot.runs.files import write_text
from dashpot.utils.strict_json import decode, encode


def write_lines(lines: Iterable[dict[str, Any]], path: Path) -> None:
    """Write final figures atomically.

    Args:
        lines: One dictionary per line, without NaN and infinite numbers.
        path: File to write.

    Raises:
        RunError: If the file cannot be written.
    """
    write_text(path, "".join(f"{encode(line)}\n" for line in lines))


def read_lines(path: Path, accept: Callable[[Any], object]) -> None:
    """Pass the lines of a file of final figures to `accept`, in order.

    Args:
        path: File of `write_lines`.
        accept: Function of a decoded line that raises a ValueError if the line is invalid.

    Raises:
        RunError: If the file cannot be read, is empty or truncated, or a line is invalid.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise RunError(f"Cannot read {path}: {error.strerror}.") from error
    for number, text in enumerate(content.splitlines(), start=1):
        try:
            accept(decode(text))
        except ValueError as error:
            raise RunError(f"{path} is not a file of final figures: line {number}: {error}.") from error
    if not content.endswith(b"\n"):
        raise RunError(f"{path} is not a file of final figures: it is {'truncated' if content else 'empty'}.")
