"""In-memory data set whose batches are pure functions of (seed, epoch, step)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from dashpot.constraints import Interval, OneOf, check, check_fields, field, shown
from dashpot.data.seeding import SEED, generator
from dashpot.errors import ArgumentError


class Stream(Protocol):
    """Training data with reproducible epochs.

    A stream of unknown or unlimited length does not define `__len__`; an epoch then ends with its iterator. Fits of
    such data, and their schedules, are described in docs/training.md, section "Steps instead of epochs".

    A stream may also define `size_of(index)`, the number of examples of batch `index` of an epoch. Otherwise, the
    examples of each batch are counted.
    """

    def __len__(self) -> int:
        """Return the number of steps per epoch."""
        ...

    def epoch(self, index: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Return the pairs (x, y) of epoch `index`, counted from 0; every call returns the same pairs."""
        ...


@dataclass(frozen=True, eq=False)
class Batches:
    """A data set of two tensors, split into batches.

    Without shuffling, a batch is a view of the tensors; with shuffling, the batch is gathered on the device of the
    tensors. The order of the examples in an epoch depends only on (seed, epoch), and the augmentation of a batch only
    on (seed, epoch, step). A resumed run therefore gets the same batches as an uninterrupted run, on every device. The
    global random state is neither read nor changed.

    Args:
        x: Inputs of shape (examples, ...).
        y: Targets of shape (examples, ...), on the device of `x`.
        batch_size: Number of examples per batch; >= 1. The last batch of an epoch may be smaller.
        shuffle: If True, draw a new order for every epoch; otherwise, keep the order of `x`.
        seed: Seed of the order and the augmentation, an integer in [0, 2**32 - 1].
        drop_last: If True, omit the last batch of an epoch if it is smaller than the others.
        augment: Function that takes the inputs x of a batch and a CPU generator, and returns the augmented inputs, for
            example by functions of `dashpot.data.augment`. A new generator is created for every (seed, epoch, step).
        augment_from: Index of the first augmented epoch, counted from 0. Training progresses faster at first if the
            first epochs are not augmented.

    Raises:
        ArgumentError: If an argument is out of range, the tensors differ in length or device or are too short, or
            `augment` is not callable.

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
                raise ArgumentError(f"Batches: {name} must be a tensor with a row per example, got {shown(tensor)}.")
        if len(self.x) != len(self.y):
            raise ArgumentError(f"Batches: x and y must have equal length, got {len(self.x)} and {len(self.y)}.")
        if self.x.device != self.y.device:
            raise ArgumentError(f"Batches: x and y must be on the same device, got {self.x.device}, {self.y.device}.")
        if self.augment is not None and not callable(self.augment):
            raise ArgumentError(
                f"Batches: augment must be a function of (x, generator) or None, got {shown(self.augment)}."
            )
        if len(self) == 0:
            size = self.batch_size if self.drop_last else 1
            raise ArgumentError(f"Batches: x and y must have at least {size} rows, got {len(self.x)}.")

    def __len__(self) -> int:
        """Return the number of steps per epoch."""
        full, rest = divmod(len(self.x), self.batch_size)
        return full + (rest > 0 and not self.drop_last)

    def size_of(self, index: int) -> int:
        """Return the number of examples of batch `index` of an epoch, counted from 0."""
        return min(self.batch_size, len(self.x) - index * self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Return the batches of epoch 0. Training loops call `epoch(k)` instead."""
        return self.epoch(0)

    def epoch(self, index: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Return the batches of epoch `index`, counted from 0; every call returns the same batches.

        >>> batches = Batches(torch.arange(6), torch.arange(6), batch_size=3, shuffle=True, seed=1)
        >>> once, again = ([y.tolist() for _, y in batches.epoch(4)] for _ in range(2))
        >>> once == again, once == [y.tolist() for _, y in batches.epoch(5)]
        (True, False)
        """
        check("Batches", "epoch", index, Interval(0, math.inf, "left", integer=True))
        return self._batches(index)

    def _batches(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        order = None
        if self.shuffle:
            order = torch.randperm(len(self.x), generator=generator("order", self.seed, epoch)).to(self.x.device)
        for step in range(len(self)):
            part = slice(step * self.batch_size, (step + 1) * self.batch_size)
            rows = part if order is None else order[part]
            x = self.x[rows]
            if self.augment is not None and epoch >= self.augment_from:
                x = self.augment(x, generator("augment", self.seed, epoch, step))
            yield x, self.y[rows]
