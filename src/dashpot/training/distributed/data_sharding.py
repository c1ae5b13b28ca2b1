"""Data sharding: slices of batches that all ranks draw, or per-rank parts of the batches of a `DataLoader`."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor

from dashpot.errors import ArgumentError


def shard_slice(size: int, rank: int, world_size: int) -> slice:
    """Return the contiguous slice of `size` examples that belongs to `rank`; the lowest ranks share the remainder.

    >>> [list(range(5)[shard_slice(5, rank, 3)]) for rank in range(3)]
    [[0, 1], [2, 3], [4]]
    """
    quotient, remainder = divmod(size, world_size)
    start = rank * quotient + min(rank, remainder)
    return slice(start, start + quotient + (rank < remainder))


def map_tensors(function: Callable[[Tensor], Tensor], value: Any) -> Any:
    """Apply `function` to every tensor in nested tuples, lists and mappings."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, Mapping):
        return {key: map_tensors(function, item) for key, item in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(map_tensors(function, item) for item in value))
    if isinstance(value, (list, tuple)):
        return type(value)(map_tensors(function, item) for item in value)
    return value


def count_examples(value: Any) -> int | None:
    """Return the number of rows of the first tensor in `value` or the length of a plain list; None for other values.

    >>> import torch
    >>> count_examples({"labels": torch.zeros(4), "boxes": torch.zeros(4, 2)}), count_examples(["a", "b"])
    (4, 2)
    """
    shape = getattr(value, "shape", None)
    if shape is not None:
        return shape[0] if len(shape) else None
    if isinstance(value, Mapping):
        value = list(value.values())
    elif not isinstance(value, (list, tuple)):
        return None if isinstance(value, str) or not hasattr(value, "__len__") else len(value)
    elif not any(isinstance(item, (Mapping, list, tuple)) or hasattr(item, "shape") for item in value):
        return len(value)
    return next((found for item in value if (found := count_examples(item)) is not None), None)


def slice_rows(value: Any, part: slice) -> Any:
    """Slice the first dimension of every tensor in `value`.

    Raises:
        ArgumentError: If a tensor has no dimensions.

    >>> import torch
    >>> slice_rows({"words": torch.arange(4), "mask": torch.ones(4, 1)}, slice(1, 2))
    {'words': tensor([1]), 'mask': tensor([[1.]])}
    """
    return map_tensors(lambda tensor: _slice_tensor(tensor, part), value)


def _slice_tensor(tensor: Any, part: slice) -> Any:
    if tensor.ndim == 0:
        raise ArgumentError(
            "Learner: with several processes, every tensor of a batch must have a batch dimension, got a 0-d tensor."
        )
    return tensor[part]


def unshardable_reason(source: Any) -> str | None:
    """Return the feature of `source` that prevents sharding, as a noun phrase; None if its batches can be sharded."""
    from torch.utils.data import DataLoader, IterableDataset
    from torch.utils.data.distributed import DistributedSampler

    if callable(getattr(source, "epoch", None)) or isinstance(source, (list, tuple)):
        return None
    if not isinstance(source, DataLoader):
        return f"{type(source).__name__}, which cannot guarantee identical batches on every rank"
    if isinstance(source.dataset, IterableDataset):
        return "a DataLoader of an IterableDataset, whose examples have no indices"
    if source.batch_sampler is None:
        return "a DataLoader with batch_size=None"
    for sampler in (source.sampler, source.batch_sampler):
        if isinstance(sampler, DistributedSampler):
            return "a DataLoader with a DistributedSampler; remove it, as dashpot shards the batches"
    return None


class ShardedBatchSampler:
    """Batch sampler that yields the part of every batch that belongs to this rank.

    Rank 0 draws the batches of an epoch and broadcasts them. If a batch has fewer examples than there are processes,
    the ranks without an example load the first example with weight 0, because every rank must run every step.

    Attributes:
        sizes: For each batch of the epoch, the number of examples on all ranks and on this rank.
    """

    def __init__(self, batches: Any, engine: Any) -> None:
        self.batches, self.engine = batches, engine
        self.sizes: list[tuple[int, int]] = []

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[Any]]:
        engine = self.engine
        drawn = engine.broadcast([list(batch) for batch in self.batches] if engine.is_rank_zero else None)
        parts = [batch[shard_slice(len(batch), engine.global_rank, engine.world_size)] for batch in drawn]
        self.sizes = [(len(batch), len(part)) for batch, part in zip(drawn, parts, strict=True)]
        for batch, part in zip(drawn, parts, strict=True):
            yield part or batch[:1]


def shard_loader(loader: Any, engine: Any) -> tuple[Any, ShardedBatchSampler]:
    """Return a copy of a `DataLoader` that loads this rank's examples, and the batch sampler of the copy."""
    sampler, copied = ShardedBatchSampler(loader.batch_sampler, engine), copy.copy(loader)
    # DataLoader rejects assignment to these attributes, and the constructor of a subclass may require other arguments.
    vars(copied).update(batch_sampler=sampler, _iterator=None)
    return copied, sampler
