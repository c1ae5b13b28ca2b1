"""Strict check of the zip container of a torch file, before torch reads it.

torch trusts the directory of a zip file: for an entry marked as a folder, compressed, or shorter than the tensor that
refers to it, it returns memory that was never written, or allocates as much as the directory claims.
"""

from __future__ import annotations

import re
import struct
import zipfile
from typing import BinaryIO

_NAME = re.compile(
    r"[^/]+/(data\.pkl|data/\d+|byteorder|version|\.data/serialization_id|\.format_version|\.storage_alignment)"
)
_PICKLE = "data.pkl"
_LOCAL = struct.Struct("<4s5H3I2H")
_DESCRIPTOR = b"PK\x07\x08"
_HAS_DESCRIPTOR, _UTF8 = 0x8, 0x800
"""Flags of an entry: its sizes follow the data; its name is UTF-8."""


class ZipPartsError(ValueError):
    """Error raised for an invalid container; the message is a clause."""


def check_parts(stream: BinaryIO, *, checksums: bool) -> dict[str, int]:
    """Check every entry of the archive, and return the sizes in bytes of the entries by name, without the folder.

    Each entry must have an expected name, be stored without compression, have equal sizes and checksums in the
    directory and next to the data, and lie within the file without overlapping other entries.

    Args:
        stream: The file.
        checksums: Whether to verify the CRC-32 of every entry.

    Raises:
        ZipPartsError: If the container is invalid.
    """
    try:
        with zipfile.ZipFile(stream) as archive:
            sizes, end = {}, 0
            for item in sorted(archive.infolist(), key=lambda item: item.header_offset):
                name = _checked_name(item, sizes)
                end = _check_entry(stream, item, end)
                sizes[name] = item.file_size
            _check_directory(archive, end)
            bad = archive.testzip() if checksums else None
    except (zipfile.BadZipFile, ValueError, EOFError, NotImplementedError, RuntimeError, struct.error) as error:
        if isinstance(error, ZipPartsError):
            raise
        raise ZipPartsError("it is truncated or corrupt") from error
    if bad is not None:
        raise ZipPartsError(f"the checksum of {bad} does not match")
    if _PICKLE not in sizes:
        raise ZipPartsError(f"the part {_PICKLE} is missing")
    return sizes


def read_pickle(stream: BinaryIO) -> bytes:
    """Return the pickle of a checked container."""
    with zipfile.ZipFile(stream) as archive:
        return archive.read(next(name for name in archive.namelist() if name.endswith(f"/{_PICKLE}")))


def starts_like_torch(stream: BinaryIO) -> bool:
    """Return whether the first entry of a zip file is the pickle of a torch file, or is truncated within its name."""
    stream.seek(0)
    head = stream.read(_LOCAL.size)
    if head[:4] != b"PK\x03\x04":
        return False
    name = stream.read(_LOCAL.unpack(head)[9]) if len(head) == _LOCAL.size else b""
    return name.endswith(f"/{_PICKLE}".encode()) or not stream.read(1)


def _checked_name(item: zipfile.ZipInfo, known: dict[str, int]) -> str:
    """Return the name of an entry without the folder."""
    found = _NAME.fullmatch(item.orig_filename)
    if found is None or found[1] in known:
        raise ZipPartsError(f"the part {item.orig_filename!r} is unexpected")
    return found[1]


def _check_entry(stream: BinaryIO, item: zipfile.ZipInfo, start: int) -> int:
    """Check an entry against the header next to its data, and return the position after the entry."""
    name = item.orig_filename
    if item.compress_type != zipfile.ZIP_STORED or item.compress_size != item.file_size:
        raise ZipPartsError(f"the part {name} is compressed")
    if item.external_attr or item.flag_bits & ~(_HAS_DESCRIPTOR | _UTF8):
        raise ZipPartsError(f"the part {name} has unexpected attributes")
    if item.header_offset != start:
        raise ZipPartsError(f"the part {name} does not follow the previous part")
    stream.seek(start)
    signature, _, flags, method, _, _, crc, packed, size, n_name, n_extra = _LOCAL.unpack(stream.read(_LOCAL.size))
    local_name = stream.read(n_name)
    stream.seek(n_extra, 1)
    data_end = stream.tell() + item.file_size
    end = data_end
    if item.flag_bits & _HAS_DESCRIPTOR:
        stream.seek(data_end)
        found, end = _descriptor(stream, item, data_end)
        matches = found and not (crc or packed or size)
    else:
        matches = (crc, packed, size) == _expected(item)
    if not matches or (signature, flags, method, local_name) != (b"PK\x03\x04", item.flag_bits, 0, name.encode()):
        raise ZipPartsError(f"the two headers of the part {name} differ")
    return end


def _descriptor(stream: BinaryIO, item: zipfile.ZipInfo, start: int) -> tuple[bool, int]:
    """Return whether the descriptor after the data of an entry matches the directory, and the position after it."""
    content = stream.read(struct.calcsize("<4sI2Q"))
    for form in ("<4sI2I", "<4sI2Q"):  # the second form is for files above 4 GiB
        size = struct.calcsize(form)
        if len(content) >= size and struct.unpack(form, content[:size]) == (_DESCRIPTOR, *_expected(item)):
            return True, start + size
    return False, start


def _expected(item: zipfile.ZipInfo) -> tuple[int, int, int]:
    return item.CRC, item.file_size, item.file_size


def _check_directory(archive: zipfile.ZipFile, end: int) -> None:
    if archive.start_dir != end:
        raise ZipPartsError("the directory of the file does not follow its last part")
