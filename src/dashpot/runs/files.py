"""Writing records and checkpoints: whole or not at all, and on the disk before anything relies on them."""

from __future__ import annotations

import os
from pathlib import Path

from dashpot.errors import RunError
from dashpot.utils.atomic_files import write_atomically

__all__ = ["append_line", "check_writable", "make_folder", "truncate", "write_bytes", "write_error", "write_text"]


def write_bytes(path: Path, content: bytes | memoryview) -> None:
    """Write a file in one piece; an older one stays as it was until the new one is complete.

    Raises:
        RunError: it cannot be written.
    """
    try:
        write_atomically(path, lambda stream: stream.write(content))
    except OSError as error:
        raise write_error(path, error) from error


def write_text(path: Path, text: str) -> None:
    """`write_bytes` of a text in UTF-8."""
    write_bytes(path, text.encode())


def append_line(path: Path, line: str) -> int:
    """Add a line to a file and wait until it is on the disk; return the file's length in bytes.

    Raises:
        RunError: it cannot be written; a part of the line may then be at the end of the file.
    """
    try:
        with path.open("ab") as stream:
            stream.write(line.encode() + b"\n")
            stream.flush()
            os.fsync(stream.fileno())
            return stream.tell()
    except OSError as error:
        raise write_error(path, error) from error


def truncate(path: Path, length: int) -> None:
    """Drop everything after the first `length` bytes of a file.

    Raises:
        RunError: it cannot be written.
    """
    try:
        os.truncate(path, length)
    except OSError as error:
        raise write_error(path, error) from error


def make_folder(path: Path) -> Path:
    """Create a folder, and those above it, where it is missing.

    Raises:
        RunError: it cannot be created.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise write_error(path, error) from error
    return path


def check_writable(path: Path) -> None:
    """Refuse a place for a file where none can be written, before the work for it is done.

    Raises:
        RunError: there is a folder, or what should be the folder above it cannot be written to.
    """
    if os.path.isdir(path):  # noqa: PTH112 - which never raises
        raise RunError(f"Cannot write {path}: it is a folder.")
    above = next(folder for folder in path.absolute().parents if os.path.lexists(folder))
    if not os.path.isdir(above):  # noqa: PTH112
        raise RunError(f"Cannot write {path}: {above} is not a folder.")
    if not os.access(above, os.W_OK | os.X_OK):
        raise RunError(f"Cannot write {path}: the folder {above} may not be written to.")


def write_error(path: Path, error: OSError) -> RunError:
    """The error for a file that the system refuses to write."""
    return RunError(f"Cannot write {path}: {error.strerror or error}; what was finished before is kept.")
