"""Names, checksums and sources of data sets published as idx files."""

from __future__ import annotations

import gzip
import hashlib
import io
import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dashpot.data import idx
from dashpot.errors import DataError
from dashpot.utils.atomic_files import keep_aside, sha256

_CHUNK = 1 << 20
_SURPLUS = 1 << 24
"""Number of bytes beyond the expected size that are read for the checksum in the error message."""


@dataclass(frozen=True)
class IdxFile:
    """A file of a data set.

    A file that was compressed again, for example by a Linux distribution, is valid although the checksum of the
    compressed file differs from `gzip_sha256`.

    Args:
        name: File name without ".gz".
        sha256: Checksum of the decompressed content.
        gzip_sha256: Checksum of the published `name.gz`, which downloads must match.
    """

    name: str
    sha256: str
    gzip_sha256: str


@dataclass(frozen=True)
class IdxDataset:
    """A data set of idx files and its sources.

    Args:
        name: Name of the data set's folder in the cache.
        title: Name of the data set in messages.
        files: Published file for each field of `Images`.
        folders: Subfolders of the user's data folder to search, in order.
        system: Folder in which the system package installs the files.
        mirrors: URLs of the folders that contain the files, each ending in "/", tried in order.
        advice: Alternatives to a download, as the last clause of an error message.
    """

    name: str
    title: str
    files: Mapping[str, IdxFile]
    folders: tuple[str, ...]
    system: Path
    mirrors: tuple[str, ...]
    advice: str


def read(path: Path, file: IdxFile, *, in_cache: bool) -> np.ndarray:
    """Read an idx file and verify its checksum.

    Args:
        path: Path of the file, whose content is decompressed if the name ends in `.gz`.
        file: Description of the file, with the expected checksum.
        in_cache: Whether the file is in dashpot's cache. Damaged files in the cache are renamed to `*.damaged`; other
            damaged files are left unchanged.

    Raises:
        DataError: If the file cannot be read, is truncated, is not an idx file, or has a different checksum.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from error
    try:
        head, size, actual = _measured(raw, path.suffix == ".gz")
    except (OSError, EOFError, zlib.error) as error:
        reason = f"decompression failed: {str(error).rstrip('.')}"
        raise _corrupt_error(path, reason, "sha256", file.gzip_sha256, sha256(raw), in_cache=in_cache) from error
    if actual != file.sha256:
        reason, label = _mismatch_reason(head, size), "sha256 of the decompressed content"
        raise _corrupt_error(path, reason, label, file.sha256, actual, in_cache=in_cache)
    return idx.decode(gzip.decompress(raw) if path.suffix == ".gz" else raw)


def _measured(raw: bytes, compressed: bool) -> tuple[bytes, int, str]:
    """Return the beginning, the size and the checksum of the content of a file, in constant memory.

    A file that continues far beyond the size in its header is not read to its end, and has no checksum.
    """
    head, size, digest, limit = b"", 0, hashlib.sha256(), _SURPLUS
    with gzip.GzipFile(fileobj=io.BytesIO(raw)) if compressed else io.BytesIO(raw) as stream:
        while size <= limit and (chunk := stream.read(_CHUNK)):
            if not head:
                head = chunk[: idx.LONGEST_HEADER]
                limit = _expected_size(head) + _SURPLUS
            size += len(chunk)
            digest.update(chunk)
    return head, size, digest.hexdigest() if size <= limit else "a longer file"


def _expected_size(head: bytes) -> int:
    """Return the size of a file with this header, or 0 if the header is invalid."""
    try:
        start, shape = idx.read_header(head)
    except idx.IdxError:
        return 0
    return start + math.prod(shape)


def _mismatch_reason(head: bytes, size: int) -> str:
    """Return the reason why content with a wrong checksum is invalid."""
    try:
        idx.check_size(head, size)
    except idx.IdxError as error:
        return str(error)
    return "it is a valid idx file with different values"


def _corrupt_error(path: Path, reason: str, label: str, expected: str, actual: str, *, in_cache: bool) -> DataError:
    outcome = "it was left unchanged"
    if in_cache:
        try:
            outcome = f"it was renamed to {keep_aside(path).name}, and the next run uses a different source"
        except OSError as error:
            outcome = f"it could not be renamed ({error.strerror or error})"
    return DataError(f"{path} is damaged ({reason}): expected {label} {expected}, got {actual}; {outcome}.")
