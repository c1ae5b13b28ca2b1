"""Numbers of examples that the source of batches defines: streams, and loaders whose sampler draws indices."""

from __future__ import annotations

import copy
import operator
from collections import deque
from collections.abc import Iterator
from typing import Any

from torch.utils.data import DataLoader, IterableDataset


def stream_batch_size(stream: Any, index: int) -> int | None:
    """Return the number of examples of batch `index` if the stream defines `size_of(index)`, else None."""
    if not callable(getattr(stream, "size_of", None)):
        return None
    return operator.index(stream.size_of(index))


def draws_indices(source: Any) -> bool:
    """Return whether `source` is a `DataLoader` whose batch sampler draws the indices of the examples of each batch."""
    return (
        isinstance(source, DataLoader)
        and source.batch_sampler is not None
        and not isinstance(source.dataset, IterableDataset)
        and type(source).__iter__ is DataLoader.__iter__  # other iterators may omit or merge batches
        and getattr(source, "in_order", True)
    )


class CountingBatchSampler:
    """Batch sampler that counts the indices of each batch.

    Attributes:
        sizes: For each batch drawn and not yet used, the numbers of examples on all ranks and on this rank; None if the
            batch of indices has no length. Every iteration has its own queue.
    """

    def __init__(self, batches: Any) -> None:
        self.batches = batches
        self.sizes: deque[tuple[int, int] | None] = deque()

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Any]:
        self.sizes = deque()
        return self._drawn(self.sizes)

    def _drawn(self, sizes: deque[tuple[int, int] | None]) -> Iterator[Any]:
        """Return the batches of indices, and append their sizes to `sizes`."""
        batches = iter(self.batches)  # draws its random numbers at the same time as without counting

        def count() -> Iterator[Any]:
            for batch in batches:
                sizes.append((len(batch), len(batch)) if hasattr(batch, "__len__") else None)
                yield batch

        return count()


def with_batch_sampler(loader: Any, sampler: Any) -> Any:
    """Return a copy of a `DataLoader` with a different batch sampler."""
    copied = copy.copy(loader)
    # DataLoader rejects assignment to these attributes, and the constructor of a subclass may require other arguments.
    vars(copied).update(batch_sampler=sampler, _iterator=None)
    return copied


def first_epoch(source: Any) -> Iterator[tuple[Any, int | None]]:
    """Yield the batches of the first epoch, with the numbers of examples that the source defines, or None."""
    if callable(getattr(source, "epoch", None)):
        for index, batch in enumerate(source.epoch(0)):
            yield batch, stream_batch_size(source, index)
    elif draws_indices(source):
        sampler = CountingBatchSampler(source.batch_sampler)
        for batch in with_batch_sampler(source, sampler):
            drawn = sampler.sizes.popleft()
            yield batch, None if drawn is None else drawn[0]
    else:
        for index, batch in enumerate(source):
            yield batch, stream_batch_size(source, index)
