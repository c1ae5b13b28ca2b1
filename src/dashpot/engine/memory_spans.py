"""Detection of overlaps in the memory that a step writes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from torch import Tensor


def memory_span(x: Tensor) -> tuple[int, int]:
    """Return the address of the first element of a tensor and the address past its last element."""
    extent = sum((size - 1) * stride for size, stride in zip(x.shape, x.stride(), strict=True)) + 1
    return x.data_ptr(), x.data_ptr() + extent * x.element_size()


class WrittenMemory:
    """The spans of memory that a step writes, sorted by start.

    If no two prepared tensors overlap, no tensors of a step overlap either, so the spans are computed once and used at
    every step (`use_all`). Otherwise the spans are computed at each step for the tensors of that step (`use_exact`).

    Attributes:
        arguments: The triple (number of spans, address of the starts, address of the ends) that kernels read.
        all_disjoint: Whether the spans of all prepared tensors are known to be disjoint.
    """

    def __init__(self) -> None:
        self.arguments = 0, 0, 0
        self._spans = np.zeros((3, 0), dtype=np.int64)  # rows: starts, largest end so far, owners
        self._all: np.ndarray | None = None
        self._all_version = -1

    @property
    def all_disjoint(self) -> bool:
        return self._all is not None

    def use_all(self, version: int, spans: Iterable[np.ndarray]) -> bool:
        """Use the spans of all prepared tensors, and return False if any two spans overlap.

        The spans are computed again if `version` has changed.
        """
        if version != self._all_version:
            sorted_spans = np.concatenate([np.zeros((0, 2), dtype=np.int64), *spans])
            sorted_spans = sorted_spans[np.argsort(sorted_spans[:, 0])]
            starts, reach = sorted_spans[:, 0], np.maximum.accumulate(sorted_spans[:, 1])
            self._all_version = version
            self._all = None if (starts[1:] < reach[:-1]).any() else np.array([starts, reach])
        if self._all is not None:
            self._set(self._all)
        return self._all is not None

    def drop_all(self) -> None:
        """Use exact spans until the set of prepared tensors changes."""
        self._all = None

    def use_exact(self, spans: np.ndarray, owners: np.ndarray) -> set[int]:
        """Use the given spans, and return the owners of all spans that overlap another span."""
        order = np.argsort(spans[:, 0])
        starts, ends, owners = spans[order, 0], spans[order, 1], owners[order]
        reach = np.maximum.accumulate(ends)
        self._set(np.array([starts, reach, owners]))
        overlaps = (starts[1:] < reach[:-1]).any()
        return _overlapping(starts.tolist(), ends.tolist(), owners.tolist()) if overlaps else set()

    def owners_of(self, span: tuple[int, int]) -> set[int]:
        """Return the owners of the exact spans that overlap with `span`."""
        starts, ends, owners = self._spans
        return set(owners[(starts < span[1]) & (ends > span[0])].tolist())

    def _set(self, spans: np.ndarray) -> None:
        self._spans, address = spans, spans.ctypes.data
        self.arguments = spans.shape[1], address, address + spans.strides[0]


def _overlapping(starts: Sequence[int], ends: Sequence[int], owners: Sequence[int]) -> set[int]:
    found: set[int] = set()
    furthest, holder = -1, -1
    for start, end, owner in zip(starts, ends, owners, strict=True):
        if start < furthest:
            found |= {owner, holder}
        if end > furthest:
            furthest, holder = end, owner
    return found
