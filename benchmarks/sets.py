"""Optimizers for which the set of parameters with gradients varies, and optimizers with one group per parameter."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import dashpot as dp


class Rotating:
    """AdamW with gradients in two thirds of the parameters: a window that moves by `shift` parameters per step.

    All states are created before the first timed step. If `shift` is 0, the set is constant.
    """

    def __init__(self, params: list[Tensor], shift: int) -> None:
        self.params, self.grads, self.shift = params, [p.grad for p in params], shift
        self.optimizer, self.start = dp.AdamW(params), 0
        self.optimizer.step()

    def prepare(self) -> None:
        """Assign the gradients of the next step, at equal cost for every shift."""
        count = len(self.params)
        self.start = (self.start + self.shift) % count
        for i, (p, grad) in enumerate(zip(self.params, self.grads, strict=True)):
            p.grad = grad if (i - self.start) % count < 2 * count // 3 else None

    def step(self) -> None:
        self.optimizer.step()


def grouped(params: list[Tensor], make: type[torch.optim.Optimizer], *, spread: bool, **options: Any) -> Any:
    """Return an optimizer with one group per parameter, with different learning rates if `spread` is true."""
    count = len(params)
    rates = [1e-3 * (1 + i / count if spread else 1) for i in range(count)]
    return make([{"params": [p], "lr": lr} for p, lr in zip(params, rates, strict=True)], **options)
