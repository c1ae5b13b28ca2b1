"""Checksum of a whole zip file, stored at its end as the comment of the archive.

The comment consists of `MARK` and the SHA-256 of all preceding bytes of the file in hexadecimal, so that every byte is
covered. Programs that read zip files, such as `torch.load`, ignore the comment.
"""

from __future__ import annotations

import hashlib
import struct
from typing import Any, BinaryIO

MARK = b"dashpot sha256 "
LENGTH = len(MARK) + 64
"""Number of bytes of the comment."""
_CHUNK = 1 << 20
_NO_COMMENT = struct.pack("<H", 0)


class SealingWriter:
    """Output stream for `torch.save` that appends the checksum of the written zip file.

    A zip file ends with the length of its comment, so the last two bytes are held back until `seal` is called.

    Args:
        stream: Binary stream to write to.

    >>> import io, zipfile
    >>> target = io.BytesIO()
    >>> writer = SealingWriter(target)
    >>> with io.BytesIO() as archive:
    ...     zipfile.ZipFile(archive, "w").close()
    ...     _ = writer.write(archive.getvalue())
    >>> writer.seal()
    >>> seal_state(target)
    True
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream, self._held, self._digest = stream, b"", hashlib.sha256()

    def write(self, data: Any) -> int:
        """Write bytes, and return their number."""
        view = memoryview(data).cast("B")
        if len(view) < len(_NO_COMMENT):
            short = self._held + bytes(view)
            cut = max(0, len(short) - len(_NO_COMMENT))
            self._emit(short[:cut])
            self._held = short[cut:]
        else:
            self._emit(self._held)
            self._emit(view[: -len(_NO_COMMENT)])
            self._held = bytes(view[-len(_NO_COMMENT) :])
        return len(view)

    def flush(self) -> None:
        """Flush the stream."""
        self._stream.flush()

    def seal(self) -> None:
        """Append the checksum, after the whole zip file has been written."""
        if self._held != _NO_COMMENT:
            raise ValueError("the zip file must end without a comment")
        self._emit(struct.pack("<H", LENGTH) + MARK)
        self._stream.write(self._digest.hexdigest().encode())

    def _emit(self, data: bytes | memoryview) -> None:
        self._digest.update(data)
        self._stream.write(data)


def seal_state(stream: BinaryIO) -> bool | None:
    """Return whether the checksum of a file matches its content, or None if the file does not end with a checksum."""
    size = stream.seek(0, 2)
    if size < LENGTH:
        return None
    stream.seek(size - LENGTH)
    comment = stream.read(LENGTH)
    if not comment.startswith(MARK):
        return None
    digest, left = hashlib.sha256(), size - LENGTH + len(MARK)
    stream.seek(0)
    while left:
        chunk = stream.read(min(left, _CHUNK))
        if not chunk:  # the file has become shorter
            return False
        digest.update(chunk)
        left -= len(chunk)
    return digest.hexdigest().encode() == comment[len(MARK) :]
