"""Files of data sets published in the idx format."""

from __future__ import annotations

import math
from dataclasses import dataclass

from dashpot.data import idx
from dashpot.data.published import PublishedFile


@dataclass(frozen=True)
class IdxFile(PublishedFile):
    """An idx file of a data set, whose header states its size."""

    def expected_size(self, head: bytes) -> int:
        """Return the size of a file with this header, or 0 if the header is invalid."""
        try:
            start, shape = idx.read_header(head[: idx.LONGEST_HEADER])
        except idx.IdxError:
            return 0
        return start + math.prod(shape)

    def mismatch(self, head: bytes, size: int) -> str:
        """Return the reason why content with a wrong checksum is invalid."""
        try:
            idx.check_size(head[: idx.LONGEST_HEADER], size)
        except idx.IdxError as error:
            return str(error)
        return "it is a valid idx file with different values"
