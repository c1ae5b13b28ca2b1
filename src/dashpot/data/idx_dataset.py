"""A data set published as idx files: what its files are called, and what their bytes must be."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dashpot.data import idx
from dashpot.errors import DataError
from dashpot.utils.atomic_files import keep_aside, sha256

__all__ = ["IdxDataset", "IdxFile", "read"]


@dataclass(frozen=True)
class IdxFile:
    """One file of a data set.

    `sha256` is the checksum of the decoded bytes, which decide; `gzip_sha256` that of the published `name.gz`, which
    a download must match. A copy packed anew (as Linux distributions do) has another packed checksum and is accepted.
    """

    name: str
    sha256: str
    gzip_sha256: str


@dataclass(frozen=True)
class IdxDataset:
    """A data set of idx files and the places it can come from.

    `files` maps the fields of `Images` to files, `folders` are the places inside a data folder where copies are
    looked for, `system` is where a system package puts them, `mirrors` are addresses ending in "/", tried in order,
    `advice` completes the sentence "... is neither here nor could it be downloaded: ".
    """

    name: str
    title: str
    files: Mapping[str, IdxFile]
    folders: tuple[str, ...]
    system: Path
    mirrors: tuple[str, ...]
    advice: str


def read(path: Path, file: IdxFile, *, in_cache: bool) -> np.ndarray:
    """Decode one idx file, packed or not, and check that it is the published one.

    Args:
        path: where it lies; a name that ends in `.gz` is unpacked.
        file: what it must be.
        in_cache: whether it lies in dashpot's cache. A damaged file of in_cache is renamed to `*.damaged`; anybody else's is
            left untouched.

    Raises:
        DataError: it cannot be read, is cut short, is no idx file or has another checksum.
    """
    try:
        packed = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from error
    try:
        content = gzip.decompress(packed) if path.suffix == ".gz" else packed
    except (OSError, EOFError, zlib.error) as error:
        reason = f"it does not unpack: {str(error).rstrip('.')}"
        raise _corrupt_error(path, reason, "sha256", file.gzip_sha256, sha256(packed), in_cache=in_cache) from error
    actual = sha256(content)
    if actual != file.sha256:
        raise _corrupt_error(
            path, _mismatch_reason(content), "sha256 of the unpacked bytes", file.sha256, actual, in_cache=in_cache
        )
    return idx.decode(content)


def _mismatch_reason(content: bytes) -> str:
    """What is wrong with bytes that have the wrong checksum, as far as their own header tells."""
    try:
        idx.decode(content)
    except idx.IdxError as error:
        return str(error)
    return "it is a whole idx file with other values"


def _corrupt_error(path: Path, reason: str, what: str, expected: str, actual: str, *, in_cache: bool) -> DataError:
    outcome = "it was left as it is"
    if in_cache:
        try:
            outcome = f"it was kept aside as {keep_aside(path).name}, and the next run looks for a sound copy"
        except OSError as error:
            outcome = f"it could not be kept aside ({error.strerror or error})"
    return DataError(f"{path} is damaged ({reason}): expected {what} {expected}, got {actual}; {outcome}.")
