"""Atomic file writes, checksums and preservation of damaged files."""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO


def sha256(content: bytes) -> str:
    """Return the SHA-256 checksum of `content` in hexadecimal.

    >>> sha256(b"dashpot")[:16]
    '1f98ac7350d105c2'
    """
    return hashlib.sha256(content).hexdigest()


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a file atomically and durably.

    The data is written to a temporary file in the same folder, flushed to disk and renamed to `path`. The rename is
    flushed to disk as well, so that the file survives a crash after this function returns. On failure, for example due
    to a full disk, the temporary file is removed and an existing file at `path` is unchanged.

    Args:
        path: Destination; missing parent folders are created.
        write: Function that writes the content to its argument, the open binary file. Its return value is ignored.

    Raises:
        OSError: If the folder or the file cannot be written.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_atomically(Path(folder, "note"), lambda file: file.write(b"whole"))
    ...     Path(folder, "note").read_bytes(), len(list(Path(folder).iterdir()))
    (b'whole', 1)
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # tempfile.mkstemp is not used, because it would restrict the permissions of the file to the owner.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")
    try:
        with temporary.open("xb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Flush the directory entries of a folder to disk, if the system supports it."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except PermissionError:  # on Windows, or if the folder is writable but not readable
        return
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # unsupported by the file system
            raise
    finally:
        os.close(handle)


def keep_aside(path: Path) -> Path:
    """Rename a damaged file and return the new path.

    The new name is `NAME.damaged`, or `NAME.damaged-N` with N = 2, 3, ... if that file exists.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder, "labels.gz")
    ...     for content in (b"first", b"second"):
    ...         _ = file.write_bytes(content)
    ...         print(keep_aside(file).name)
    labels.gz.damaged
    labels.gz.damaged-2
    """
    aside = path.with_name(f"{path.name}.damaged")
    copies = 1
    while aside.exists():
        copies += 1
        aside = path.with_name(f"{path.name}.damaged-{copies}")
    return path.rename(aside)
