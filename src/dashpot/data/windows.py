"""Batches of random windows of a token sequence, for language models."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from dashpot.constraints import Interval, check, check_fields, field, shown
from dashpot.data.seeding import SEED, generator
from dashpot.errors import ArgumentError

_COUNT = Interval(1, math.inf, "left", integer=True)


@dataclass(frozen=True, eq=False)
class Windows:
    """Random windows of a sequence of tokens, with the next tokens as targets.

    The windows of a batch start at uniform positions, drawn with replacement. They depend only on (seed, epoch, step),
    so that a resumed run gets the same batches as an uninterrupted one, on every device.

    Args:
        tokens: Sequence of integers, of shape (length,), with at least `block` + 1 tokens. Batches are int64.
        block: Length of a window; >= 1.
        batch_size: Number of windows per batch; >= 1.
        steps: Number of batches per epoch; >= 1. An epoch is not a pass over the sequence.
        seed: Seed of the positions, an integer in [0, 2**32 - 1].

    Raises:
        ArgumentError: If an argument is out of range, or the sequence is too short.

    >>> windows = Windows(torch.arange(10), block=3, batch_size=2, steps=5)
    >>> [(x.shape, bool((y == x + 1).all())) for x, y in windows.epoch(0)][:1], len(windows)
    ([(torch.Size([2, 3]), True)], 5)
    """

    tokens: Tensor
    block: int = field(dataclasses.MISSING, _COUNT)
    batch_size: int = field(dataclasses.MISSING, _COUNT)
    steps: int = field(dataclasses.MISSING, _COUNT)
    seed: int = field(0, SEED)

    def __post_init__(self) -> None:
        check_fields(self)
        if not isinstance(self.tokens, Tensor) or self.tokens.ndim != 1:
            raise ArgumentError(f"Windows: tokens must be a tensor of one dimension, got {shown(self.tokens)}.")
        if len(self.tokens) <= self.block:
            raise ArgumentError(
                f"Windows: tokens must have at least block + 1 = {self.block + 1} elements, got {len(self.tokens)}."
            )

    def __len__(self) -> int:
        """Return the number of steps per epoch."""
        return self.steps

    def size_of(self, index: int) -> int:
        """Return the number of windows of batch `index` of an epoch, which is the same for all batches."""
        return self.batch_size

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Return the batches of epoch 0. Training loops call `epoch(k)` instead."""
        return self.epoch(0)

    def epoch(self, index: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Return the batches of epoch `index`, counted from 0; every call returns the same batches."""
        check("Windows", "epoch", index, Interval(0, math.inf, "left", integer=True))
        return (self._batch(index, step) for step in range(self.steps))

    def _batch(self, epoch: int, step: int) -> tuple[Tensor, Tensor]:
        drawn = generator("windows", self.seed, epoch, step)
        starts = torch.randint(len(self.tokens) - self.block, (self.batch_size, 1), generator=drawn)
        places = (starts + torch.arange(self.block)).to(self.tokens.device)
        return self.tokens[places].long(), self.tokens[places + 1].long()


def blocks(tokens: Tensor, block: int) -> tuple[Tensor, Tensor]:
    """Split a sequence into consecutive windows without overlap, with the next tokens as targets.

    Args:
        tokens: Sequence of tokens, of shape (length,), with at least `block` + 1 tokens.
        block: Length of a window; >= 1.

    Returns:
        Inputs and targets of shape (windows, block), int64. At most `block` tokens at the end are omitted.

    Raises:
        ArgumentError: If the sequence is too short.

    >>> blocks(torch.arange(8), 3)
    (tensor([[0, 1, 2],
            [3, 4, 5]]), tensor([[1, 2, 3],
            [4, 5, 6]]))
    """
    check("blocks", "block", block, _COUNT)
    count = (len(tokens) - 1) // block
    if count < 1:
        raise ArgumentError(f"blocks: tokens must have at least block + 1 = {block + 1} elements, got {len(tokens)}.")
    whole = tokens[: count * block + 1].long()
    return whole[:-1].view(count, block), whole[1:].view(count, block)
