"""The cliff in the loss of a recurrent network with one unit, and gradient descent across it.

The state is x <- w sigmoid(x) + b, 50 times from x = 1/2; the loss is (sigmoid(x) - .7)^2.

Source: Pascanu, Mikolov and Bengio, arXiv 1211.5063, section 2.3.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from dashpot.optimizers.torch_compatible import SGD

START = (6.5, -3.0)
LR = 0.5


def cliff_loss(w: Tensor, b: Tensor) -> Tensor:
    """Return the loss for tensors of weights and biases.

    >>> [round(float(cliff_loss(torch.tensor(w), torch.tensor(-3.3))), 3) for w in (6.0, 6.5)]
    [0.427, 0.06]
    """
    x = torch.full_like(w, 0.5)
    for _ in range(50):
        x = w * torch.sigmoid(x) + b
    return (torch.sigmoid(x) - 0.7).square()


def descend_the_cliff(steps: int, **clipping: Any) -> list[tuple[float, float, float]]:
    """Return weight, bias and loss after each step of SGD from `START`, with the options `max_norm` or `clip_value`."""
    w, b = (nn.Parameter(torch.tensor(value, dtype=torch.float64)) for value in START)
    optimizer = SGD([w, b], lr=LR, **clipping)
    path = []
    for _ in range(steps + 1):
        optimizer.zero_grad()
        loss = cliff_loss(w, b)
        path.append((w.item(), b.item(), loss.item()))
        loss.backward()
        optimizer.step()
    return path
