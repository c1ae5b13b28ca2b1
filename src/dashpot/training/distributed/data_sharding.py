"""What several processes share of a batch: rows of one that all have made alike, or their own part of a loader's."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor

from dashpot.errors import ArgumentError

__all__ = [
    "ShardedBatchSampler",
    "count_examples",
    "map_tensors",
    "shard_loader",
    "shard_slice",
    "slice_rows",
    "unshardable_reason",
]


def shard_slice(size: int, rank: int, world: int) -> slice:
    """The part of `size` examples that process `rank` of `world` takes: they follow one another, the first take more.

    >>> [list(range(5)[shard_slice(5, rank, 3)]) for rank in range(3)]
    [[0, 1], [2, 3], [4]]
    """
    least, more = divmod(size, world)
    start = rank * least + min(rank, more)
    return slice(start, start + least + (rank < more))


def map_tensors(change: Callable[[Tensor], Tensor], value: Any) -> Any:
    """`value` with every tensor in it changed: in tuples, lists and mappings, too."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, Mapping):
        return {key: map_tensors(change, item) for key, item in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(map_tensors(change, item) for item in value))
    if isinstance(value, (list, tuple)):
        return type(value)(map_tensors(change, item) for item in value)
    return value


def count_examples(value: Any) -> int | None:
    """The rows of the first tensor in `value`, the length of a plain list; None where there is nothing to count.

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
    """Those rows of every tensor in `value`.

    >>> import torch
    >>> slice_rows({"words": torch.arange(4), "mask": torch.ones(4, 1)}, slice(1, 2))
    {'words': tensor([1]), 'mask': tensor([[1.]])}
    """
    return map_tensors(lambda tensor: _cut(tensor, part), value)


def _cut(tensor: Any, part: slice) -> Any:
    if tensor.ndim == 0:
        raise ArgumentError(
            "Learner: several processes share a batch by its rows, so every tensor in it must have some, got a tensor "
            "without dimensions."
        )
    return tensor[part]


def unshardable_reason(source: Any) -> str | None:
    """Why several processes cannot share the batches of `source`, or None."""
    from torch.utils.data import DataLoader, IterableDataset
    from torch.utils.data.distributed import DistributedSampler

    if callable(getattr(source, "epoch", None)) or isinstance(source, (list, tuple)):
        return None
    if not isinstance(source, DataLoader):
        return f"{type(source).__name__}, of which nobody knows whether it gives every process the same"
    if isinstance(source.dataset, IterableDataset):
        return "a DataLoader of an IterableDataset, whose examples have no numbers"
    if source.batch_sampler is None:
        return "a DataLoader with batch_size=None"
    for sampler in (source.sampler, source.batch_sampler):
        if isinstance(sampler, DistributedSampler):
            return "a DataLoader with a DistributedSampler; leave that out, as batches are shared here"
    return None


class ShardedBatchSampler:
    """Stands for a loader's batch sampler: the part of every batch that is this process's.

    The first process draws the batches of an epoch and tells the others. `sizes` then holds (examples of the batch,
    examples of it that are here) of each; where fewer examples than processes leave nothing, one that does not count is
    loaded all the same, as everybody has to take part.
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
    """A copy of a `DataLoader` that loads this process's parts, and what tells their sizes."""
    batches, copied = ShardedBatchSampler(loader.batch_sampler, engine), copy.copy(loader)
    # A loader guards these against assignment; made anew it might want arguments that only its class knows.
    vars(copied).update(batch_sampler=batches, _iterator=None)
    return copied, batches
