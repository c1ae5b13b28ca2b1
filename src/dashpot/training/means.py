"""Running means of one phase of an epoch: sums that stay on the device for a while."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

__all__ = ["FLUSH", "Means"]

FLUSH = 32
"""Batches between two reads from the device: often enough to see a diverged loss soon, too rarely to cost."""


class Means:
    """Means over examples of the loss and of every metric.

    >>> means = Means({"accuracy": lambda output, target: (output.argmax(1) == target).sum()})
    >>> means.add(torch.eye(2), torch.tensor([0, 0]), torch.tensor(0.5), size=2)
    >>> means.values()
    {'loss': 0.5, 'accuracy': 0.5}
    """

    def __init__(self, metrics: Mapping[str, Callable[[Tensor, Tensor], Tensor]]) -> None:
        self.metrics = metrics
        self.sums = [0.0] * (1 + len(metrics))
        self.count = 0
        self._waiting: list[tuple[Tensor, int]] = []

    def add(self, output: Tensor, target: Tensor, loss: Tensor, size: int) -> None:
        """Take in a batch of `size` examples: its output and target, and its mean loss."""
        wide = torch.promote_types(loss.dtype, torch.float32)  # counts examples exactly
        row = [loss, *(metric(output, target) for metric in self.metrics.values())]
        self._waiting.append((torch.stack([value.detach().to(wide) for value in row]), size))
        if len(self._waiting) == FLUSH:
            self.flush()

    def flush(self) -> None:
        """Read what waits on the device, all at once."""
        if not self._waiting:
            return
        rows = torch.stack([row for row, _ in self._waiting]).tolist()
        for (loss, *others), (_, size) in zip(rows, self._waiting, strict=True):
            self.sums = [a + b for a, b in zip(self.sums, [loss * size, *others], strict=True)]
            self.count += size
        self._waiting.clear()

    def values(self, total: Callable[[list[float]], list[float]] = list) -> dict[str, float]:
        """The means so far; `total` adds the sums of several processes. Empty before the first batch."""
        self.flush()
        count, *sums = total([float(self.count), *self.sums])
        return {name: s / count for name, s in zip(["loss", *self.metrics], sums, strict=True)} if count else {}

    def state_dict(self, total: Callable[[list[float]], list[float]] = list) -> dict[str, Any]:
        """The sums so far, of all processes."""
        self.flush()
        count, *sums = total([float(self.count), *self.sums])
        return {"count": int(count), "sums": sums}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from sums."""
        self.count, self.sums = int(state["count"]), [float(value) for value in state["sums"]]
        self._waiting.clear()
