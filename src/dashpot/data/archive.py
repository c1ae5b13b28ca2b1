"""Members of published archives, read in memory."""

from __future__ import annotations

import io
import tarfile
import zipfile
import zlib
from collections.abc import Iterable, Mapping

from dashpot.errors import DataError


def members(content: bytes, names: Iterable[str], *, owner: str) -> Mapping[str, bytes]:
    """Return the content of files in an archive, without writing anything to disk.

    Args:
        content: A tar archive, compressed or not, or a zip archive, whose checksum has been verified.
        names: Paths of the files in the archive.
        owner: Name of the archive in messages.

    Raises:
        DataError: If the content is not an archive, or a file is missing from it.
    """
    try:
        if zipfile.is_zipfile(io.BytesIO(content)):
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                return {name: archive.read(name) for name in names}
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            return {name: _extracted(archive, name) for name in names}
    except (KeyError, EOFError, OSError, tarfile.TarError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{owner} cannot be unpacked: {_first_line(error)}.") from error


def _first_line(error: Exception) -> str:
    return str(error.args[0]).partition("\n")[0].rstrip(".:")


def _extracted(archive: tarfile.TarFile, name: str) -> bytes:
    file = archive.extractfile(name)
    if file is None:
        raise KeyError(f"{name} is not a file")
    return file.read()
