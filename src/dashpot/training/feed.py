"""Batches on their way to the learner: any source, from any place in an epoch, on the device, shared by processes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dashpot.errors import ArgumentError
from dashpot.training.engine import Engine
from dashpot.training.random_state import random_state, set_random_state

__all__ = ["Batch", "Feed"]


class Batch(NamedTuple):
    """What one process gets of a batch: its examples, and its share of the whole batch's mean loss.

    `weight` is 1 for one process; otherwise the number of own examples over the mean number of a process, so that
    averages over processes are averages over examples.
    """

    x: Any
    y: Any
    size: int
    weight: float


class Feed:
    """The batches of a phase.

    Args:
        source: a `dashpot.data.Stream` such as `Batches`, or an iterable of pairs (x, y) with a length, such as
            `torch.utils.data.DataLoader`.
        engine: gives the device and the processes.
        owner: what errors call the source, such as "train".

    Raises:
        ArgumentError: the source is of another kind, or empty.
    """

    def __init__(self, source: Any, engine: Engine, owner: str) -> None:
        self.source, self.engine, self.owner = source, engine, owner
        self._begun: Mapping[str, Any] | None = None
        if not hasattr(source, "__len__") or not (hasattr(source, "epoch") or hasattr(source, "__iter__")):
            raise ArgumentError(
                f"Learner: {owner} must be dashpot.data.Batches, a DataLoader or another sized iterable of pairs "
                f"(x, y), got {source!r}."
            )
        if len(source) == 0:
            raise ArgumentError(f"Learner: {owner} must hold at least one batch, got an empty {type(source).__name__}.")

    def __len__(self) -> int:
        return len(self.source)

    def batches(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from number `start` on."""
        whole = self.source.epoch(epoch) if self.is_stream else self._replayed(start)
        for item in islice(whole, start if self.is_stream else 0, None):
            yield self._shared(self._moved(item))

    @property
    def is_stream(self) -> bool:
        """Whether an epoch is a pure function of its number."""
        return hasattr(self.source, "epoch")

    def _replayed(self, start: int) -> Iterator[Any]:
        """A loader's batches from `start` on: begun with the random state that it was begun with, read up to there."""
        now = random_state()
        if start == 0 or self._begun is None:
            self._begun = now
        set_random_state(self._begun)
        batches = iter(self.source)
        for _ in range(start):
            next(batches)
        if start:
            set_random_state(now)
        return batches

    def state_dict(self) -> dict[str, Any]:
        """What it takes to start again in the middle of an epoch, of every process."""
        return {"begun": self.engine.gather(self._begun)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with the epoch that `state` was taken in."""
        if len(state["begun"]) == self.engine.world:
            self._begun = state["begun"][self.engine.rank]

    def _moved(self, item: Any) -> tuple[Any, Any]:
        if not isinstance(item, (tuple, list)) or len(item) != 2:
            raise ArgumentError(f"Learner: {self.owner} must give pairs (x, y), got {type(item).__name__}.")
        x, y = (self._placed(part) for part in item)
        return x, y

    def _placed(self, part: Any) -> Any:
        """A tensor of the host goes to the device; one that is on another device is a mistake."""
        device = self.engine.device
        if not isinstance(part, Tensor) or part.device == device:
            return part
        if part.device.type != "cpu":
            raise ArgumentError(f"Learner: {self.owner} gives a batch on {part.device}, the model is on {device}.")
        return part.to(device, non_blocking=True)

    def _shared(self, pair: tuple[Any, Any]) -> Batch:
        """This process's part of a batch that every process has made alike."""
        x, y = pair
        size, world, rank = len(y), self.engine.world, self.engine.rank
        if world == 1 or not self.is_stream:
            return Batch(x, y, size, 1.0)
        mine = torch.tensor_split(torch.arange(size), world)[rank]
        if len(mine) == 0:  # fewer examples than processes: take part with an example that does not count
            return Batch(x[:1], y[:1], 0, 0.0)
        part = slice(int(mine[0]), int(mine[-1]) + 1)
        return Batch(x[part], y[part], len(mine), len(mine) * world / size)
