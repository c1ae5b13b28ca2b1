"""The binary format of CIFAR-10: records of a label and the three color planes of an image, without a header.

A record has 3073 bytes: the label, 0 to 9, and 1024 bytes each for red, green and blue in row-major order. Source:
description of the binary version at https://www.cs.toronto.edu/~kriz/cifar.html.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from dashpot.data.published import PublishedFile

SHAPE = (3, 32, 32)
"""Shape of an image: channels, height and width."""

RECORDS = 10_000
"""Number of records of a published file."""

_LENGTH = 1 + math.prod(SHAPE)
_CLASSES = 10


@dataclass(frozen=True)
class RecordFile(PublishedFile):
    """A file of records of CIFAR-10."""

    def mismatch(self, head: bytes, size: int) -> str:
        """Return the reason why content with a wrong checksum is invalid."""
        if self.size is not None and size != self.size:
            return f"it has {size} bytes, not the {self.size} of {self.size // _LENGTH} records"
        label = _largest_label(head)
        if label >= _CLASSES:
            return f"it contains the label {label}, and labels are 0 to 9"
        return "it contains records other than the published ones, which the option checksum=false accepts"


def decode(content: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Decode records.

    Returns:
        Images of shape (records, 3, 32, 32) and labels of shape (records,), as read-only views of `content`.

    Raises:
        ValueError: If the number of bytes is not a multiple of a record, or a label is not in 0 to 9. The message is a
            clause that callers insert into an error message with the name of the file.

    >>> images, labels = decode(b"\\7" + bytes(range(256)) * 12)
    >>> images.shape, images[0, 1, 0, :3], labels
    ((1, 3, 32, 32), array([0, 1, 2], dtype=uint8), array([7], dtype=uint8))
    """
    if len(content) % _LENGTH:
        raise ValueError(f"it has {len(content)} bytes, which is not a multiple of {_LENGTH}")
    if (label := _largest_label(content)) >= _CLASSES:
        raise ValueError(f"it contains the label {label}, and labels are 0 to 9")
    records = np.frombuffer(content, np.uint8).reshape(-1, _LENGTH)
    return records[:, 1:].reshape(-1, *SHAPE), records[:, 0]


def encode(images: np.ndarray, labels: np.ndarray) -> bytes:
    """Encode images of shape (records, 3, 32, 32) and labels of shape (records,); the inverse of `decode`."""
    return np.column_stack([labels, images.reshape(len(images), -1)]).tobytes()


def _largest_label(content: bytes) -> int:
    return max(content[::_LENGTH], default=0)
