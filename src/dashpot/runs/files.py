"""Functions that write files, atomically or by appending and syncing, and raise `RunError` on failure."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

from dashpot.errors import RunError
from dashpot.utils.atomic_files import write_atomically


def write_bytes(path: Path, content: bytes | memoryview) -> None:
    """Write a file atomically: an existing file is replaced once the new file is complete.

    Raises:
        RunError: If the file cannot be written.
    """
    try:
        write_atomically(path, lambda stream: stream.write(content))
    except OSError as error:
        raise write_error(path, error) from error


def write_text(path: Path, text: str) -> None:
    """Write text atomically as UTF-8; see `write_bytes`."""
    write_bytes(path, text.encode())


def append_line(path: Path, line: str) -> int:
    """Append a line to a file, sync it to disk, and return the length of the file in bytes.

    Raises:
        RunError: If the line cannot be written; the file may then end with a part of the line.
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
    """Truncate a file to `length` bytes.

    Raises:
        RunError: If the file cannot be written.
    """
    try:
        os.truncate(path, length)
    except OSError as error:
        raise write_error(path, error) from error


def remove_partial_files(folder: Path, names: str, *, age: float = 0.0) -> None:
    """Remove the temporary files of `write_bytes` that killed processes have left in a folder.

    Args:
        folder: Folder, which may be missing. If `age` is 0, it must be locked by this process.
        names: Regular expression for the names of the files that were being written.
        age: Seconds since the last write, for a folder in which other processes write.

    Raises:
        RunError: If a file cannot be removed.
    """
    for path in folder.glob(".*.part"):
        if re.fullmatch(rf"\.({names})\.[0-9a-f]+\.part", path.name):
            try:
                if not age or time.time() - path.stat().st_mtime > age:
                    path.unlink(missing_ok=True)
            except FileNotFoundError:
                continue
            except OSError as error:
                raise write_error(path, error) from error


def make_folder(path: Path) -> Path:
    """Create a folder and its parents if they are missing.

    Raises:
        RunError: If the folder cannot be created.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise write_error(path, error) from error
    return path


def check_writable(path: Path) -> None:
    """Check that a file can be written to `path`, for use before an expensive computation of the content.

    Raises:
        RunError: If `path` is a folder, or its closest existing parent is not a writable folder.
    """
    if os.path.isdir(path):  # noqa: PTH112 - unlike Path.is_dir, it never raises
        raise RunError(f"Cannot write {path}: it is a folder.")
    parent = next(folder for folder in path.absolute().parents if os.path.lexists(folder))
    if not os.path.isdir(parent):  # noqa: PTH112
        raise RunError(f"Cannot write {path}: {parent} is not a folder.")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise RunError(f"Cannot write {path}: the folder {parent} is not writable.")


def write_error(path: Path, error: OSError) -> RunError:
    """Return the `RunError` for a failed write to `path`."""
    return RunError(f"Cannot write {path}: {error.strerror or error}; completed results are kept.")
