"""Which parameters step together: a set with gradients that changes at each step, and a group for each parameter."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import dashpot as dp


class Rotating:
    """An AdamW of ours of which two thirds of the parameters have gradients, a window that moves `shift` a step.

    Every parameter has its state before the first timed step. Without a shift the set stays the same.
    """

    def __init__(self, params: list[Tensor], shift: int) -> None:
        self.params, self.grads, self.shift = params, [p.grad for p in params], shift
        self.optimizer, self.start = dp.AdamW(params), 0
        self.optimizer.step()

    def prepare(self) -> None:
        """Assign the gradients of the next step, which costs the same whether the set changes or not."""
        count = len(self.params)
        self.start = (self.start + self.shift) % count
        for i, (p, grad) in enumerate(zip(self.params, self.grads, strict=True)):
            p.grad = grad if (i - self.start) % count < 2 * count // 3 else None

    def step(self) -> None:
        self.optimizer.step()


def grouped(params: list[Tensor], make: type[torch.optim.Optimizer], *, spread: bool, **options: Any) -> Any:
    """An optimizer with a group for each parameter; with `spread`, each has a learning rate of its own."""
    count = len(params)
    rates = [1e-3 * (1 + i / count if spread else 1) for i in range(count)]
    return make([{"params": [p], "lr": lr} for p, lr in zip(params, rates, strict=True)], **options)
