"""Cache files with their own checksum, written atomically and verified on every read."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

from dashpot.data.warn_once import warn_once
from dashpot.utils.atomic_files import keep_aside, write_atomically

_log = logging.getLogger(__name__)

_SIZE = hashlib.sha256().digest_size


def store(path: Path, content: bytes, *, what: str) -> None:
    """Write `content` and its checksum to `path` atomically. If the write fails, log a warning once.

    Args:
        path: Destination; missing parent folders are created.
        content: Content of the file.
        what: Subject of the warning, such as "The encoded text".

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "tokens")
    ...     store(path, b"content", what="The encoded text")
    ...     load(path, what="The encoded text")
    b'content'
    """
    try:
        write_atomically(path, lambda file: (file.write(hashlib.sha256(content).digest()), file.write(content)))
    except OSError as error:
        warn_once(f"{what} is not cached in {path.parent} ({error.strerror or error}).")


def load(path: Path, *, what: str) -> bytes | None:
    """Return the content stored at `path`, or None if the file is missing or damaged.

    A damaged file is renamed to `*.damaged`.
    """
    try:
        stored = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        warn_once(f"{what} in {path} cannot be read ({error.strerror or error}) and is computed again.")
        return None
    if hashlib.sha256(stored[_SIZE:]).digest() == stored[:_SIZE]:
        return stored[_SIZE:]
    try:
        outcome = f"was renamed to {keep_aside(path).name}"
    except OSError as error:
        outcome = f"could not be renamed ({error.strerror or error})"
    _log.warning("%s in %s is damaged, %s, and is computed again.", what, path, outcome)
    return None
