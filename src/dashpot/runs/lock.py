"""Lock that restricts a folder to one process at a time."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dashpot.errors import RunError


@contextmanager
def locked(folder: Path, *, wait: float = 0.0) -> Iterator[None]:
    """Hold an exclusive lock on `folder` inside the block; the system releases the lock if the process dies.

    Args:
        folder: Folder to lock.
        wait: Seconds to wait for another process, >= 0.

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
        deadline = time.monotonic() + wait
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as error:
                if time.monotonic() >= deadline:
                    raise RunError(
                        f"Another process is using {folder}; wait for it, or choose another folder."
                    ) from error
                time.sleep(0.01)
        yield
    finally:
        os.close(descriptor)
