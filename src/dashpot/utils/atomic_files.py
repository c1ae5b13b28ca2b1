"""Files that are never half-written and never thrown away."""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

__all__ = ["keep_aside", "sha256", "write_atomically"]


def sha256(content: bytes) -> str:
    """The SHA-256 checksum of `content` in hexadecimal.

    >>> sha256(b"dashpot")[:16]
    '1f98ac7350d105c2'
    """
    return hashlib.sha256(content).hexdigest()


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Let `write` fill a file that appears at `path` complete, or not at all.

    The bytes go to a temporary file in the same folder, reach the disk, and then take the place of `path` in one step,
    which reaches the disk as well: what comes after may rely on the file whatever happens to the machine. If anything
    fails, a full disk included, the temporary file is removed and an older `path` stays as it was.

    Args:
        path: the file to make; its folder is made where it is missing.
        write: is given the open binary file; what it returns is ignored.

    Raises:
        OSError: the folder or the file cannot be written.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_atomically(Path(folder, "note"), lambda file: file.write(b"whole"))
    ...     Path(folder, "note").read_bytes(), len(list(Path(folder).iterdir()))
    (b'whole', 1)
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not tempfile.mkstemp, whose files only their owner may read: the result has the permissions of any new file.
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
    _settle(path.parent)


def _settle(folder: Path) -> None:
    """Wait until the names in a folder are on the disk, where the system has that."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except PermissionError:  # Windows, and folders that may be written but not listed
        return
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # file systems without it
            raise
    finally:
        os.close(handle)


def keep_aside(path: Path) -> Path:
    """Rename a damaged file so that it is out of the way but not lost; the new name ends in `.damaged`.

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
