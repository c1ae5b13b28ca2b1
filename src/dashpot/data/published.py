"""Names, checksums and sources of published data sets."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class PublishedFile:
    """A file of a data set.

    A file that was compressed again, for example by a Linux distribution, is valid although the checksum of the
    compressed file differs from `gzip_sha256`.

    Args:
        name: File name, without the ".gz" of a file that is published compressed by gzip.
        sha256: SHA-256 of the (decompressed) content. If it is None, `sha1` or, without it, `size` verifies the file.
        gzip_sha256: Checksum of the published `name.gz`, which downloads must match, or None if the file is published
            as `name`.
        size: Number of bytes of the content, or None if it follows from the content.
        sha1: SHA-1 of the content, for files whose SHA-256 was not published; never used for downloads.
        aliases: Other names of the file in the user's folder.
    """

    name: str
    sha256: str | None
    gzip_sha256: str | None = None
    size: int | None = None
    sha1: str | None = None
    aliases: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the file on disk, in order of preference, without those of compressed files."""
        return (self.name, *self.aliases)

    @property
    def download_name(self) -> str:
        """Name of the published file."""
        return self.name if self.gzip_sha256 is None else f"{self.name}.gz"

    def expected_size(self, head: bytes) -> int:
        """Return the number of bytes of a file with this beginning, or 0 if the beginning is invalid.

        Files of unknown size are read to their end.
        """
        return sys.maxsize if self.size is None else self.size

    def mismatch(self, head: bytes, size: int) -> str:
        """Return the reason why content with this beginning and size, and a wrong checksum, is invalid."""
        if self.size is None or size == self.size:
            return "its content differs"
        return f"it has {size} bytes, not {self.size}"


@dataclass(frozen=True)
class PublishedDataset:
    """A data set of published files and its sources.

    A data set that is published as an archive has one file, the archive; `dashpot.data.archive` reads its members.

    Args:
        name: Name of the data set's folder in the cache.
        title: Name of the data set in messages.
        files: Published files by key.
        folders: Subfolders of the user's data folder to search, in order.
        system: Folder in which the system package installs the files, or None.
        mirrors: URLs of the folders that contain the files, each ending in "/", tried in order. Without mirrors, the
            data set cannot be downloaded.
        advice: Alternatives to a download, as the last clause of an error message.
    """

    name: str
    title: str
    files: Mapping[str, PublishedFile]
    folders: tuple[str, ...]
    system: Path | None
    mirrors: tuple[str, ...]
    advice: str
