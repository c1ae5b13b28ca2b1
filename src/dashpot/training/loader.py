"""Data loaders of a learner, which resume within an epoch, move batches to the device and shard them over ranks."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from dashpot.constraints import shown
from dashpot.data.length import length
from dashpot.errors import ArgumentError, RunError
from dashpot.tasks.batch_size import SizeFunction, as_examples, batch_size, row_counts
from dashpot.tasks.counted_batches import CountingBatchSampler, draws_indices, stream_batch_size, with_batch_sampler
from dashpot.training.distributed.data_sharding import (
    ShardedBatchSampler,
    move_batch,
    shard_slice,
    slice_examples,
    unshardable_reason,
)
from dashpot.training.distributed.engine import Engine
from dashpot.training.loop_state import Batch
from dashpot.training.state.loader_state import loader_state, non_resumable_reason, set_epoch, set_loader_state
from dashpot.training.state.replay_check import ReplayCheck
from dashpot.training.state.undo import attributes_of
from dashpot.utils.rng_state import OwnGenerators, preserve_rng_state, random_state, set_random_state

LABEL_KEYS = ("labels", "label", "targets", "target", "y")
"""Usual keys of the targets in a batch that is a mapping."""


class ResumableLoader:
    """Loader of the batches of a phase, starting at any position in an epoch.

    Each batch of the source is a global batch, which is split over the ranks. For a stream, every rank draws all
    batches and keeps its slice. For a `DataLoader`, every rank loads only its part, in the order drawn on rank 0.

    A source without a length is read to its end in every epoch. Unless it is a stream, it draws its random numbers from
    generators that are seeded at the start of the epoch, so that a replay does not depend on the random numbers that
    the model draws between two batches.

    Args:
        source: A `dashpot.data.Stream` such as `Batches`, or an iterable of pairs (x, y) such as
            `torch.utils.data.DataLoader`, with or without a length.
        engine: Device and processes.
        owner: Name of the source in error messages, such as "train".
        size: Function from (x, y) to the number of examples of a batch. Default: the number that the source defines, as
            `Batches`, streams with `size_of(index)`, and loaders with a batch sampler do; else the number on which the
            shapes in the batch agree.

    Raises:
        ArgumentError: If the source has an unsupported type, is empty, can be read only once, or cannot be sharded over
            several ranks.
    """

    def __init__(self, source: Any, engine: Engine, owner: str, size: SizeFunction | None = None) -> None:
        self.source, self.engine, self.owner, self.size_function = source, engine, owner, size
        self.epoch_start: Mapping[str, Any] | None = None  # RNG and loader state at the start of the epoch
        if not (self.is_stream or hasattr(source, "__iter__")):
            raise self._type_error()
        if isinstance(source, Iterator):
            raise self._type_error(", which can be read only once; its __iter__ must return a new iterator")
        if self.size == 0:
            raise ArgumentError(
                f"Learner: {owner} must contain at least one batch, got an empty {type(source).__name__}."
            )
        if engine.world_size > 1 and (reason := unshardable_reason(source)):
            raise ArgumentError(
                f"Learner: {owner} must be dashpot.data.Batches or a map-style DataLoader to be sharded over "
                f"{engine.world_size} processes, got {reason}."
            )
        self._loader, self._sampler = source, self._counting_sampler()
        if self._sampler is not None:
            self._loader = with_batch_sampler(source, self._sampler)
        shards = engine.world_size > 1 and isinstance(source, DataLoader)
        self.replay_check = ReplayCheck(owner, engine, same_on_all_ranks=not shards)

    def _counting_sampler(self) -> CountingBatchSampler | None:
        """Return a batch sampler that counts examples and, with several processes, yields those of this rank."""
        source = self.source
        if self.engine.world_size > 1 and isinstance(source, DataLoader):
            return ShardedBatchSampler(source.batch_sampler, self.engine)
        return CountingBatchSampler(source.batch_sampler) if not self.is_stream and draws_indices(source) else None

    def __len__(self) -> int:
        return len(self.source)

    @property
    def size(self) -> int | None:
        """Number of batches per epoch, or None if the source does not define it."""
        return length(self.source)

    def batches(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch, starting at index `start`.

        Raises:
            RunError: If the number of batches is 0 or differs from `len(source)`.
        """
        items = self._stream(epoch, start) if self.is_stream else self._replay(epoch, start)
        drawn = None if self._sampler is None else self._sampler.sizes  # of this iteration
        expected, count = self.size, start
        for index, item in enumerate(items, start):
            count = index + 1
            if expected is not None and count > expected:
                break
            yield self._batch(*self._pair(item), index, drawn)
        if count == 0:
            raise RunError(f"Learner: {self.owner} must yield at least one batch, got none in epoch {epoch + 1}.")
        if expected is not None and count != expected:
            got = "more" if count > expected else str(count)
            raise RunError(f"Learner: {self.owner} must yield len({self.owner}) = {expected} batches, got {got}.")

    @property
    def batch_size(self) -> int | None:
        """Number of examples in a full batch, or None if the source does not define the number."""
        size = getattr(self.source, "batch_size", None)
        return size if isinstance(size, int) else None

    @property
    def all_examples(self) -> int | None:
        """Number of examples in an epoch, including a dropped last batch; None if the source does not define it."""
        examples: Any = getattr(self.source, "x", getattr(self.source, "sampler", None))
        if isinstance(examples, (Mapping, tuple)) or hasattr(examples, "shape"):
            [count, *more] = row_counts(examples) or (None,)
            return None if more else count
        return len(examples) if hasattr(examples, "__len__") else None

    @property
    def is_stream(self) -> bool:
        """Whether the source is a stream, whose epochs are pure functions of their index."""
        return callable(getattr(self.source, "epoch", None))

    def _stream(self, epoch: int, start: int) -> Iterator[Any]:
        """Return the batches of a stream from index `start`."""
        with preserve_rng_state():
            return self.replay_check.replay(lambda: iter(self.source.epoch(epoch)), epoch, start, self.source)

    def _replay(self, epoch: int, start: int) -> Iterator[Any]:
        """Return the batches from index `start`, replayed from the state of the loader at the start of the epoch."""
        current = {**random_state(), **loader_state(self.source)}
        if start == 0 or self.epoch_start is None:
            self.epoch_start = current
        epoch_start = self.epoch_start

        def restart() -> Iterator[Any]:
            set_random_state(epoch_start)
            set_loader_state(self.source, epoch_start)
            set_epoch(self.source, epoch)
            return iter(self._loader) if self.size is not None else _independent(self._loader)

        batches = self.replay_check.replay(restart, epoch, start, self.source)
        if self._sampler is not None:
            for _ in range(start):
                self._sampler.sizes.popleft()
        if start:
            set_random_state(current)
        return batches

    def checked_state_dict(self) -> dict[str, Any]:
        """Return the state for resuming, with a fingerprint of the last batch, which a resumed fit compares."""
        return {**self.state_dict(), **self.replay_check.state_dict()}

    def state_dict(self) -> dict[str, Any]:
        """Return the state for resuming in the current or the next epoch, gathered over ranks."""
        return {"begun": self.engine.all_gather(self.epoch_start), **loader_state(self.source)}

    def check_resumable(self) -> None:
        """Check that a saved state can reproduce the batches.

        Raises:
            ArgumentError: If no saved state can reproduce the batches.
        """
        reason = None if self.is_stream else non_resumable_reason(self.source)
        if reason:
            raise ArgumentError(f"Learner: {self.owner} cannot be resumed exactly: {reason}.")

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the state returned by `state_dict`."""
        set_loader_state(self.source, state)
        # The state of rank 0 determines the order of the examples, for any number of ranks.
        epoch_start, rank = state["begun"], self.engine.global_rank
        self.epoch_start = epoch_start[rank] if rank < len(epoch_start) else None

    def snapshot(self) -> Callable[[], None]:
        """Return a function that restores the current state, on this rank."""
        begun, state, check = self.epoch_start, loader_state(self.source), attributes_of(self.replay_check)

        def restore() -> None:
            set_loader_state(self.source, state)
            self.epoch_start = begun
            check()

        return restore

    def _type_error(self, detail: str = "") -> ArgumentError:
        if isinstance(self.source, Dataset) and not detail:
            detail = "; pass DataLoader(dataset, batch_size=...)"
        return ArgumentError(
            f"Learner: {self.owner} must be dashpot.data.Batches, a DataLoader or another iterable of pairs (x, y), "
            f"got {shown(self.source)}{detail}."
        )

    def _pair(self, item: Any) -> tuple[Any, Any]:
        if not isinstance(item, (tuple, list)) or len(item) != 2:
            raise ArgumentError(f"Learner: {self.owner} must yield pairs (x, y), got {_shown_item(item)}.")
        x, y = item
        return x, y

    def _to_device(self, tensor: Tensor) -> Tensor:
        """Move a CPU tensor to the engine's device; reject tensors on other devices."""
        device = self.engine.device
        if tensor.device == device:
            return tensor
        if tensor.device.type != "cpu":
            allowed = " or ".join(dict.fromkeys(["cpu", str(device)]))
            raise ArgumentError(f"Learner: {self.owner} must yield tensors on {allowed}, got {tensor.device}.")
        return tensor.to(device, non_blocking=True)

    def _batch(self, x: Any, y: Any, index: int, drawn: deque[tuple[int, int] | None] | None) -> Batch:
        """Return this rank's part of batch `index`, on the device of the engine."""
        name = f"Learner: {self.owner}"
        sizes = None if drawn is None else drawn.popleft()
        if sizes is not None:
            x = as_examples(x, y, sizes[1] or 1)  # an empty rank loads one example
            total, own = self._loaded_sizes(x, y, *sizes)
        else:
            total = own = self._count(x, y, stream_batch_size(self.source, index))
            if self.engine.world_size > 1:
                part = shard_slice(total, self.engine.global_rank, self.engine.world_size)
                own = part.stop - part.start
                part = part if own else slice(1)  # an empty rank computes one example with weight 0
                x, y = (slice_examples(value, part, total, name) for value in (x, y))
        return Batch(self._moved(x), self._moved(y), own, total)

    def _count(self, x: Any, y: Any, known: int | None) -> int:
        """Return the number of examples of a batch; `known` is the number according to the source, or None."""
        return batch_size(x, y, self.size_function, known, f"Learner: {self.owner}")

    def _loaded_sizes(self, x: Any, y: Any, total: int | None, own: int) -> tuple[int | None, int]:
        """Return the numbers of examples of a loaded batch on all ranks (None if unknown) and on this rank."""
        own = self._count(x, y, own) if own else 0
        if self.size_function is not None:
            total = None if self.engine.world_size > 1 else own
        return total, own

    def _moved(self, value: Any) -> Any:
        return move_batch(value, self._to_device, self.engine.device)


def _independent(source: Any) -> Iterator[Any]:
    """Return the items of `source`, computed with generator states of their own, seeded by the global generator.

    The seed is drawn before the iterator is returned.
    """
    generators = OwnGenerators(int(torch.randint(2**32, (), dtype=torch.int64)))
    with generators:
        items = iter(source)

    def iterate() -> Iterator[Any]:
        while True:
            with generators:
                try:
                    item = next(items)
                except StopIteration:
                    return
            yield item

    return iterate()


def _shown_item(item: Any) -> str:
    """Describe a batch that is not a pair, with the change that makes it one."""
    if isinstance(item, Mapping):
        label = next((key for key in LABEL_KEYS if key in item), "labels")
        keys = ", ".join(map(str, islice(item, 8))) + (", ..." if len(item) > 8 else "")
        return (
            f"a mapping with the keys {keys}; separate the targets in the collate function, as in (x, x.pop({label!r}))"
        )
    if isinstance(item, (tuple, list)):
        cure = "combine them, as in ((a, b), y)" if len(item) > 2 else "add the targets"
        return f"a {type(item).__name__} of {len(item)} item{'' if len(item) == 1 else 's'}; {cure}"
    return shown(item)
