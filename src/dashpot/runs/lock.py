"""Lock that restricts a folder to one process at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dashpot.errors import RunError


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold an exclusive lock on `folder` inside the block; the system releases the lock if the process dies.

    Raises:
        RunError: If another process holds the lock, or the folder cannot be opened.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder, locked(Path(folder)):
    ...     pass
    """
    try:
        import fcntl
    except ImportError:  # Windows has no flock, so the folder is not locked
        yield
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise RunError(f"Cannot open {folder}: {error.strerror or error}.") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise RunError(f"Another process is using {folder}; wait for it, or choose another folder.") from error
        yield
    finally:
        os.close(descriptor)
