"""Training data in memory: batches by slicing; a batch is a pure function of (seed, epoch, step)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from dashpot.constraints import Interval, OneOf, check, check_fields, field
from dashpot.data.seeding import SEED, generator
from dashpot.errors import ArgumentError

__all__ = ["Batches", "Stream"]


class Stream(Protocol):
    """What a training loop needs of its data: the steps of an epoch, and their number."""

    def __len__(self) -> int:
        """Steps in one epoch."""
        ...

    def epoch(self, index: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The pairs (x, y) of epoch `index`, counted from 0; the same pairs whenever it is asked for."""
        ...


@dataclass(frozen=True, eq=False)
class Batches:
    """A data set held as two tensors, cut into batches.

    Both tensors stay where they are: without shuffling a batch is a view of them, with shuffling a gather on their
    device, and augmentation, where there is one, works on the batch. The order of an epoch depends on `seed` and the
    epoch's index only, what augmentation draws for a batch on those and the step, so a run that resumes in epoch 7
    sees what an uninterrupted one sees, on every device; the global random state plays no part and is not changed.

    Args:
        x: inputs, shape (examples, ...).
        y: targets, shape (examples, ...), on the device of `x`.
        batch_size: examples in a batch, at least 1; the last batch holds what remains.
        shuffle: draw a new order for every epoch; otherwise every epoch is in the given order.
        seed: of the order and of the augmentation, an integer in [0, 2**32 - 1]; without effect unless there is either.
        drop_last: leave out a last batch that is not full.
        augment: maps x of a batch and a CPU generator to the x that is handed out, such as a function made of those in
            `dashpot.data.augment`. The generator is a fresh one for every (seed, epoch, step), so that a batch depends
            on nothing else, and an epoch differs from the others even without shuffling.
        augment_from: the first epoch, counted from 0, that is augmented: examples are learnt faster as they are.

    Raises:
        ArgumentError: an argument is out of range, the tensors do not fit together, no batch would be left, or
            `augment` cannot be called.

    >>> batches = Batches(torch.arange(5.0), torch.arange(5), batch_size=2)
    >>> len(batches), [x.tolist() for x, _ in batches.epoch(0)]
    (3, [[0.0, 1.0], [2.0, 3.0], [4.0]])
    """

    x: Tensor
    y: Tensor
    batch_size: int = field(dataclasses.MISSING, Interval(1, math.inf, "left", integer=True))
    shuffle: bool = field(False, OneOf((False, True)))
    seed: int = field(0, SEED)
    drop_last: bool = field(False, OneOf((False, True)))
    augment: Callable[[Tensor, torch.Generator], Tensor] | None = None
    augment_from: int = field(0, Interval(0, math.inf, "left", integer=True))

    def __post_init__(self) -> None:
        check_fields(self)
        for name, tensor in (("x", self.x), ("y", self.y)):
            if not isinstance(tensor, Tensor) or tensor.ndim == 0:
                raise ArgumentError(f"Batches: {name} must be a tensor with one row per example, got {tensor!r}.")
        if len(self.x) != len(self.y):
            raise ArgumentError(f"Batches: x and y must have as many rows, got {len(self.x)} and {len(self.y)}.")
        if self.x.device != self.y.device:
            raise ArgumentError(f"Batches: x and y must be on one device, got {self.x.device} and {self.y.device}.")
        if self.augment is not None and not callable(self.augment):
            raise ArgumentError(f"Batches: augment must be a function of (x, generator) or None, got {self.augment!r}.")
        if len(self) == 0:
            kept = f"full batches of {self.batch_size}" if self.drop_last else "examples"
            raise ArgumentError(f"Batches: x and y must hold at least one batch, got {len(self.x)} rows and no {kept}.")

    def __len__(self) -> int:
        """Steps in one epoch."""
        full, rest = divmod(len(self.x), self.batch_size)
        return full + (rest > 0 and not self.drop_last)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Epoch 0, which is every epoch unless `shuffle` or `augment`; a training loop asks for `epoch(k)`."""
        return self.epoch(0)

    def epoch(self, index: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of epoch `index`, counted from 0; the same ones whenever it is asked for.

        >>> batches = Batches(torch.arange(6), torch.arange(6), batch_size=3, shuffle=True, seed=1)
        >>> once, again = ([y.tolist() for _, y in batches.epoch(4)] for _ in range(2))
        >>> once == again, once == [y.tolist() for _, y in batches.epoch(5)]
        (True, False)
        """
        check("Batches", "epoch", index, Interval(0, math.inf, "left", integer=True))
        return self._batches(index, self._order(index) if self.shuffle else None)

    def _order(self, index: int) -> Tensor:
        order = torch.randperm(len(self.x), generator=generator("order", self.seed, index))
        return order.to(self.x.device)

    def _batches(self, epoch: int, order: Tensor | None) -> Iterator[tuple[Tensor, Tensor]]:
        for step in range(len(self)):
            part = slice(step * self.batch_size, (step + 1) * self.batch_size)
            chosen = part if order is None else order[part]
            yield self._augmented(self.x[chosen], epoch, step), self.y[chosen]

    def _augmented(self, x: Tensor, epoch: int, step: int) -> Tensor:
        if self.augment is None or epoch < self.augment_from:
            return x
        return self.augment(x, generator("augment", self.seed, epoch, step))
