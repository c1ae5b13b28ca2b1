"""Batches on their way to the learner: any source, from any place in an epoch, on the device, shared by processes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

from torch import Tensor

from dashpot.errors import ArgumentError, RunError
from dashpot.training.distributed.data_sharding import (
    count_examples,
    map_tensors,
    shard_loader,
    shard_slice,
    slice_rows,
    unshardable_reason,
)
from dashpot.training.distributed.engine import Engine
from dashpot.training.loop_state import Batch
from dashpot.training.state.loader_state import (
    component_states,
    generator_states,
    non_resumable_reason,
    set_component_states,
    set_epoch,
    set_generator_states,
)
from dashpot.utils.rng_state import random_state, set_random_state

__all__ = ["ResumableLoader"]


class ResumableLoader:
    """The batches of a phase.

    Args:
        source: a `dashpot.data.Stream` such as `Batches`, or an iterable of pairs (x, y) with a length, such as
            `torch.utils.data.DataLoader`.
        engine: gives the device and the processes.
        owner: what errors call the source, such as "train".

    A batch is that of all processes together, and every process takes its part of it. A stream's batches are made by
    each, and cut. Of a loader's each loads its part only, in the order that the first process draws.

    Raises:
        ArgumentError: the source is of another kind, empty, or cannot be shared by several processes.
    """

    def __init__(self, source: Any, engine: Engine, owner: str) -> None:
        self.source, self.engine, self.owner = source, engine, owner
        self._begun: Mapping[str, Any] | None = None
        if not hasattr(source, "__len__") or not (self.is_stream or hasattr(source, "__iter__")):
            raise self._refusal()
        try:
            size = len(source)
        except TypeError as error:  # a DataLoader always has __len__, but it asks a dataset that may have none
            raise self._refusal(", which has no length") from error
        if size == 0:
            raise ArgumentError(f"Learner: {owner} must hold at least one batch, got an empty {type(source).__name__}.")
        if engine.world_size > 1 and (reason := unshardable_reason(source)):
            raise ArgumentError(
                f"Learner: {owner} is to be shared by {engine.world_size} processes, which takes dashpot.data.Batches "
                f"or a DataLoader that numbers its examples; got {reason}."
            )
        shares = engine.world_size > 1 and not self.is_stream and not isinstance(source, (list, tuple))
        self._loader, self._parts = shard_loader(source, engine) if shares else (source, None)

    def __len__(self) -> int:
        return len(self.source)

    def batches(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from number `start` on.

        Raises:
            RunError: they are not as many as the source says.
        """
        whole = islice(self.source.epoch(epoch), start, None) if self.is_stream else self._replayed(epoch, start)
        said, given = len(self), start
        for number, item in enumerate(whole, start):
            given = number + 1
            if given > said:
                break
            x, y = self._pair(item)
            if self._parts is not None:
                size, mine = self._parts.sizes[number]
            else:
                x, y, size, mine = self._cut(x, y)
            weight = 1.0 if self.engine.world_size == 1 else mine * self.engine.world_size / size
            yield Batch(self._placed(x), self._placed(y), mine, weight)
        if given != said:
            gave = "more" if given > said else f"only {given}"
            raise RunError(f"Learner: {self.owner} says that it has {said} batches, and gave {gave}.")

    def examples(self, number: int) -> int:
        """Examples in batch `number`, all processes together; 1 for each where the source does not tell."""
        size, every = self.batch_size, self.all_examples
        return 1 if size is None or every is None else max(1, min(size, every - number * size))

    @property
    def batch_size(self) -> int | None:
        """Examples in a full batch, where the source tells."""
        size = getattr(self.source, "batch_size", None)
        return size if isinstance(size, int) else None

    @property
    def all_examples(self) -> int | None:
        """Examples in an epoch, those of a last batch that is left out included, where the source tells."""
        held: Any = getattr(self.source, "x", getattr(self.source, "sampler", None))
        return count_examples(held) if hasattr(held, "__len__") else None

    @property
    def is_stream(self) -> bool:
        """Whether an epoch is a pure function of its number."""
        return callable(getattr(self.source, "epoch", None))

    def _replayed(self, epoch: int, start: int) -> Iterator[Any]:
        """A loader's batches from `start` on: begun with the random state that it was begun with, read up to there."""
        now = {**random_state(), "own": generator_states(self.source), "parts": component_states(self.source)}
        if start == 0 or self._begun is None:
            self._begun = now
        else:
            set_component_states(self.source, self._begun.get("parts", {}))
        set_random_state(self._begun)
        set_generator_states(self.source, self._begun["own"])
        set_epoch(self.source, epoch)
        batches = iter(self._loader)
        for _ in islice(batches, start):
            pass
        if start:
            set_random_state(now)
        return batches

    def state_dict(self) -> dict[str, Any]:
        """What it takes to start again in the middle of an epoch, of every process, or with the next one."""
        parts = {} if self.is_stream else component_states(self.source)
        return {"begun": self.engine.all_gather(self._begun), "own": generator_states(self.source), "parts": parts}

    def check_resumable(self) -> None:
        """Refuse a source that no state could make repeat its batches.

        Raises:
            ArgumentError: it is one.
        """
        reason = None if self.is_stream else non_resumable_reason(self.source)
        if reason:
            raise ArgumentError(f"Learner: {self.owner} cannot go on from a checkpoint to the same numbers: {reason}.")

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with the epoch that `state` was taken in."""
        set_generator_states(self.source, state["own"])
        set_component_states(self.source, state.get("parts", {}))
        begun = state["begun"]  # the first process's tells the order, also to another number of processes
        self._begun = begun[self.engine.global_rank] if self.engine.global_rank < len(begun) else None

    def _refusal(self, more: str = "") -> ArgumentError:
        """The error for a source of another kind."""
        return ArgumentError(
            f"Learner: {self.owner} must be dashpot.data.Batches, a DataLoader or another sized iterable of pairs "
            f"(x, y), got {self.source!r}{more}."
        )

    def _pair(self, item: Any) -> tuple[Any, Any]:
        if not isinstance(item, (tuple, list)) or len(item) != 2:
            raise ArgumentError(f"Learner: {self.owner} must give pairs (x, y), got {type(item).__name__}.")
        x, y = item
        return x, y

    def _placed(self, part: Any) -> Any:
        """Tensors of the host go to the device; one that is on another device is a mistake."""
        return map_tensors(self._to_device, part)

    def _to_device(self, tensor: Tensor) -> Tensor:
        device = self.engine.device
        if tensor.device == device:
            return tensor
        if tensor.device.type != "cpu":
            raise ArgumentError(f"Learner: {self.owner} gives a batch on {tensor.device}, the model is on {device}.")
        return tensor.to(device, non_blocking=True)

    def _cut(self, x: Any, y: Any) -> tuple[Any, Any, int, int]:
        """(x, y, examples in all, examples here): this process's part of a batch that every process has made alike."""
        size, world = count_examples(y), self.engine.world_size
        size = count_examples(x) if size is None else size
        if size is None:
            raise ArgumentError(
                f"Learner: {self.owner} must give batches with tensors to count the examples of, got {y!r}."
            )
        if world == 1:
            return x, y, size, size
        part = shard_slice(size, self.engine.global_rank, world)
        mine = part.stop - part.start
        part = part if mine else slice(1)  # where nothing is left take part all the same, without counting
        return slice_rows(x, part), slice_rows(y, part), size, mine
