"""Data sharding: slices of batches that all ranks draw, or per-rank parts of the batches of a `DataLoader`."""

from __future__ import annotations

import inspect
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from numbers import Number
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from dashpot.errors import ArgumentError
from dashpot.tasks.batch_size import (
    columns_of,
    describe,
    is_dataclass,
    is_list,
    list_columns_counts,
    row_counts,
    shape_of,
)
from dashpot.tasks.counted_batches import CountingBatchSampler
from dashpot.utils.nested import map_columns


def shard_slice(size: int, rank: int, world_size: int) -> slice:
    """Return the contiguous slice of `size` examples that belongs to `rank`; the lowest ranks share the remainder.

    >>> [list(range(5)[shard_slice(5, rank, 3)]) for rank in range(3)]
    [[0, 1], [2, 3], [4]]
    """
    quotient, remainder = divmod(size, world_size)
    start = rank * quotient + min(rank, remainder)
    return slice(start, start + quotient + (rank < remainder))


def move_batch(value: Any, move: Callable[[Tensor], Tensor], device: torch.device) -> Any:
    """Move the tensors and the objects with a method `to` in nested tuples, lists, mappings and dataclasses.

    Args:
        value: A part of a batch.
        move: Function that moves a tensor.
        device: Destination of objects with a method `to`, such as `BatchEncoding`, `PackedSequence` and graphs.

    >>> move_batch({"words": torch.zeros(2), "id": "a"}, torch.Tensor.double, torch.device("cpu"))
    {'words': tensor([0., 0.], dtype=torch.float64), 'id': 'a'}
    """
    if isinstance(value, Tensor):
        return move(value)
    if callable(getattr(value, "to", None)) and not isinstance(value, (type, nn.Module)):
        options = {"non_blocking": True} if _accepts_non_blocking(type(value)) else {}
        moved = value.to(device, **options)
        return value if moved is None else moved  # moved in place
    if isinstance(value, (list, tuple, Mapping)) or is_dataclass(value):
        return map_columns(lambda item: move_batch(item, move, device), value)
    return value


@lru_cache
def _accepts_non_blocking(kind: type) -> bool:
    try:
        parameters = inspect.signature(kind.to).parameters.values()
    except (TypeError, ValueError):
        return False
    return any(p.name == "non_blocking" or p.kind is p.VAR_KEYWORD for p in parameters)


def slice_examples(value: Any, part: slice, size: int, owner: str = "Learner: train") -> Any:
    """Return the examples `part` of a part of a batch of `size` examples.

    Arrays are sliced by rows. A list of `size` items is sliced; its items are kept whole. Tuples, mappings, dataclasses
    and lists of columns are sliced by column. Numbers and strings are kept.

    Raises:
        ArgumentError: If a value has no examples that can be sliced, or if a list can be both a list of examples and a
            list of columns.

    >>> slice_examples({"words": torch.arange(2), "boxes": [torch.ones(3, 4), torch.ones(1, 4)]}, slice(1, 2), size=2)
    {'words': tensor([1]), 'boxes': [tensor([[1., 1., 1., 1.]])]}
    """
    if isinstance(value, PackedSequence) or (isinstance(value, Tensor) and value.is_nested):
        raise _unsliceable(value, owner)
    if (shape := shape_of(value)) is not None:
        if shape and shape[0] == size:
            return getattr(value, "iloc", value)[part]  # by position in pandas
        got = "a 0-d tensor" if not shape else f"shape {tuple(shape)} in a batch of {size}"
        raise ArgumentError(f"{owner} must yield tensors with a row for each example, got {got}; {_CURE}")
    if value is None or isinstance(value, (str, bytes, Number)):
        return value
    if columns_of(value) is not None:
        return map_columns(lambda column: slice_examples(column, part, size, owner), value)
    if isinstance(value, tuple) and len(value) != size:
        return value  # constants
    if isinstance(value, tuple) or is_list(value):
        return _slice_list(value, part, size, owner)
    return _slice_object(value, part, size, owner)


def _slice_list(value: Any, part: slice, size: int, owner: str) -> Any:
    as_columns = size in (list_columns_counts(value) or ())
    if len(value) == size and as_columns and size > 1:
        raise ArgumentError(
            f"{owner} yields a list of {size} items with {size} rows each, which may be examples or columns: got "
            f"{describe(value)}; for several inputs, yield a tuple in place of the list; else {_CURE}"
        )
    if as_columns:
        return [slice_examples(column, part, size, owner) for column in value]
    if len(value) != size:
        raise ArgumentError(
            f"{owner} must yield lists with an item for each of the {size} examples, got {describe(value)}; {_CURE}"
        )
    return value[part]


def _slice_object(value: Any, part: slice, size: int, owner: str) -> Any:
    """Slice an object whose slices are objects of the same class with the expected number of examples."""
    try:
        sliced = value[part]
    except Exception as error:
        raise _unsliceable(value, owner) from error
    expected = len(range(size)[part])
    if type(sliced) is not type(value) or row_counts(value) != {size} or row_counts(sliced) != {expected}:
        raise _unsliceable(value, owner)
    return sliced


def _unsliceable(value: Any, owner: str) -> ArgumentError:
    return ArgumentError(f"{owner} yields {type(value).__name__}, which cannot be sliced into examples; {_CURE}")


_CURE = (
    "with several processes, use a map-style DataLoader, whose examples are divided by index before they are collated."
)


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


class ShardedBatchSampler(CountingBatchSampler):
    """Batch sampler that yields the part of every batch that belongs to this rank.

    Rank 0 draws the batches of an epoch and broadcasts them. If a batch has fewer examples than there are processes,
    the ranks without an example load the first example with weight 0, because every rank must run every step.
    """

    def __init__(self, batches: Any, engine: Any) -> None:
        super().__init__(batches)
        self.engine = engine

    def _drawn(self, sizes: deque[tuple[int, int] | None]) -> Iterator[Any]:
        engine = self.engine
        drawn = engine.broadcast([list(batch) for batch in self.batches] if engine.is_rank_zero else None)
        for batch in drawn:
            part = batch[shard_slice(len(batch), engine.global_rank, engine.world_size)]
            sizes.append((len(batch), len(part)))
            yield part or batch[:1]
