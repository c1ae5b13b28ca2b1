"""Reads of published files, verified against their checksums."""

from __future__ import annotations

import gzip
import hashlib
import io
import zlib
from pathlib import Path

from dashpot.data.published import PublishedFile
from dashpot.errors import DataError
from dashpot.utils.atomic_files import keep_aside, sha256

_CHUNK = 1 << 20
_SURPLUS = 1 << 24
"""Number of bytes beyond the expected size that are read for the checksum in the error message."""


def read(path: Path, file: PublishedFile, *, in_cache: bool) -> bytes:
    """Read a published file and verify its checksum.

    Args:
        path: Path of the file, whose content is decompressed if its name is one of `file.names` with `.gz` appended.
        file: Description of the file, with the expected checksum.
        in_cache: Whether the file is in dashpot's cache. Damaged files in the cache are renamed to `*.damaged`; other
            damaged files are left unchanged.

    Returns:
        The decompressed content.

    Raises:
        DataError: If the file cannot be read, is truncated, or has a different checksum or size.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from error
    compressed = path.name not in file.names
    try:
        head, size, actual = _measured(raw, file, compressed)
    except (OSError, EOFError, zlib.error) as error:
        reason = f"decompression failed: {str(error).rstrip('.')}"
        raise _corrupt_error(path, reason, "sha256", file.gzip_sha256, sha256(raw), in_cache=in_cache) from error
    expected = file.sha256 or file.sha1
    if actual != expected if expected else size != file.size:
        label = _algorithm(file) + (" of the decompressed content" if compressed or file.gzip_sha256 else "")
        raise _corrupt_error(path, file.mismatch(head, size), label, expected, actual, in_cache=in_cache)
    return gzip.decompress(raw) if compressed else raw


def _measured(raw: bytes, file: PublishedFile, compressed: bool) -> tuple[bytes, int, str]:
    """Return the beginning, the size and the checksum of the content of a file, in constant memory.

    A file that continues far beyond its expected size is not read to its end, and has no checksum.
    """
    head, size, digest, limit = b"", 0, hashlib.new(_algorithm(file), usedforsecurity=False), _SURPLUS
    with gzip.GzipFile(fileobj=io.BytesIO(raw)) if compressed else io.BytesIO(raw) as stream:
        while size <= limit and (chunk := stream.read(_CHUNK)):
            if not head:
                head = chunk
                limit = file.expected_size(head) + _SURPLUS
            size += len(chunk)
            digest.update(chunk)
    return head, size, digest.hexdigest() if size <= limit else "a longer file"


def _algorithm(file: PublishedFile) -> str:
    return "sha1" if file.sha1 and not file.sha256 else "sha256"


def _corrupt_error(
    path: Path, reason: str, label: str, expected: str | None, actual: str, *, in_cache: bool
) -> DataError:
    outcome = "it was left unchanged"
    if in_cache:
        try:
            outcome = f"it was renamed to {keep_aside(path).name}, and the next run uses a different source"
        except OSError as error:
            outcome = f"it could not be renamed ({error.strerror or error})"
    checksums = f": expected {label} {expected}, got {actual}" if expected else ""
    return DataError(f"{path} is damaged ({reason}){checksums}; {outcome}.")
