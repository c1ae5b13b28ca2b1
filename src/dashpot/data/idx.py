"""The idx format of MNIST: a header of big-endian integers, followed by the values in row-major order.

Bytes 0 and 1 are zero, byte 2 is the type (0x08: unsigned bytes), and byte 3 is the number of dimensions. The size of
each dimension follows as an unsigned 32-bit integer. Source: format description at http://yann.lecun.com/exdb/mnist/.
"""

from __future__ import annotations

import math
import struct

import numpy as np

_UNSIGNED_BYTES = 0x08


class IdxError(ValueError):
    """Invalid idx data. The message is a clause that callers insert into an error message with the name of the file."""


LONGEST_HEADER = 4 + 4 * 255


def read_header(content: bytes) -> tuple[int, tuple[int, ...]]:
    """Return the length of the header and the shape of the array.

    Args:
        content: Beginning of the data, of at least `LONGEST_HEADER` bytes or complete.

    Raises:
        IdxError: If the magic number, the type or the number of dimensions is wrong.
    """
    if len(content) < 4 or content[:2] != b"\0\0":
        raise IdxError(f"it does not start with the idx magic number (first bytes {content[:4].hex() or 'missing'})")
    if content[2] != _UNSIGNED_BYTES:
        raise IdxError(f"its idx type is 0x{content[2]:02x}, not 0x08 (unsigned bytes)")
    dimensions = content[3]
    start = 4 + 4 * dimensions
    if dimensions == 0 or len(content) < start:
        raise IdxError(f"its idx header of {dimensions} dimensions is incomplete")
    return start, struct.unpack(f">{dimensions}I", content[4:start])


def check_size(head: bytes, size: int) -> None:
    """Check the header and the size of data.

    Args:
        head: Beginning of the data, of at least `LONGEST_HEADER` bytes or complete.
        size: Number of bytes of the data.

    Raises:
        IdxError: If the header is invalid or does not match the size.
    """
    start, shape = read_header(head)
    if size != start + math.prod(shape):
        raise IdxError(f"it contains {size - start} values, not the {math.prod(shape)} of shape {shape}")


def decode(content: bytes) -> np.ndarray:
    """Decode an array of unsigned bytes. The result is a read-only view of `content`.

    Raises:
        IdxError: If the magic number, the number of dimensions or the length is wrong.

    >>> decode(b"\\0\\0\\x08\\x01" + b"\\0\\0\\0\\x03" + b"abc")
    array([97, 98, 99], dtype=uint8)
    """
    check_size(content, len(content))
    start, shape = read_header(content)
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def encode(array: np.ndarray) -> bytes:
    """Encode an array of unsigned bytes with 1 to 255 dimensions; the inverse of `decode`.

    >>> encode(np.array([97, 98, 99], dtype=np.uint8)) == b"\\0\\0\\x08\\x01" + b"\\0\\0\\0\\x03" + b"abc"
    True
    """
    if array.dtype != np.uint8 or array.ndim == 0:
        raise IdxError(f"encode: array must be uint8 with dimensions, got {array.dtype} with {array.ndim} dimensions")
    header = struct.pack(f">4B{array.ndim}I", 0, 0, _UNSIGNED_BYTES, array.ndim, *array.shape)
    return header + array.tobytes()
