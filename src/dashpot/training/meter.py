"""What one epoch of training measures: the loss and learning rate of every step, and the running means."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

__all__ = ["FLUSH", "Meter"]

FLUSH = 32
"""Steps between two reads of the loss from the device: often enough to stop a diverged run soon, too rarely to cost."""


class Meter:
    """Collects the steps of one epoch; numbers stay on the device for `FLUSH` steps at a time.

    >>> meter = Meter({"accuracy": lambda output, target: (output.argmax(1) == target).sum()})
    >>> meter.add(torch.eye(2), torch.tensor([0, 0]), torch.tensor(0.5), lr=0.1)
    >>> meter.means()
    {'loss': 0.5, 'accuracy': 0.5}
    """

    def __init__(self, metrics: Mapping[str, Callable[[Tensor, Tensor], Tensor]]) -> None:
        self.losses: list[float] = []
        self.lrs: list[float] = []
        self.diverged: int | None = None
        self._metrics = metrics
        self._sums: dict[str, Tensor] = {}
        self._sizes: list[int] = []
        self._pending: list[Tensor] = []

    def add(self, output: Tensor, target: Tensor, loss: Tensor, lr: float, size: int | None = None) -> None:
        """Take in one step: its output, target, mean loss, the learning rate it used, and its number of examples."""
        for name, metric in self._metrics.items():
            value = metric(output, target)
            self._sums[name] = self._sums[name] + value if name in self._sums else value
        self._sizes.append(len(target) if size is None else size)
        self._pending.append(loss)
        self.lrs.append(lr)
        if len(self._pending) == FLUSH:
            self.flush()

    def flush(self) -> None:
        """Read the waiting losses, all at once; `diverged` becomes the place of the first that is not finite."""
        if not self._pending:
            return
        fresh = torch.stack(self._pending).tolist()
        self._pending.clear()
        bad = next((i for i, loss in enumerate(fresh) if not math.isfinite(loss)), None)
        if bad is None:
            self.losses += fresh
            return
        self.losses += fresh[: bad + 1]
        self.diverged = len(self.losses) - 1
        del self.lrs[len(self.losses) :]

    def means(self) -> dict[str, float]:
        """Means over the epoch's examples: the loss weighted by batch size, then every metric."""
        self.flush()
        count = sum(self._sizes)
        total = math.fsum(loss * size for loss, size in zip(self.losses, self._sizes, strict=True))
        return {"loss": total / count} | {name: float(value) / count for name, value in self._sums.items()}
