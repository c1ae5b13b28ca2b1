"""A small recurrent network whose gradients explode, on the adding problem.

Inputs are pairs (value, mark) over time; the target is the sum of the two marked values. The loss of the best constant
prediction is the variance of the sum of two uniform numbers, 1/6.

Source: Hochreiter and Schmidhuber, Long Short-Term Memory, 1997 (adding problem); Pascanu, Mikolov and Bengio, arXiv
1211.5063 (exploding gradients, clipping of the norm).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dashpot.data.seeding import generator
from dashpot.errors import NonFiniteError
from dashpot.optimizers.torch_compatible import SGD

UNITS, LENGTH, BATCH = 16, 30, 32
CONSTANT_LOSS = 1 / 6
"""Loss of the best constant prediction."""


class RecurrentNet(nn.Module):
    """Network h <- relu(x U + h W + b), with output h v + c after the last step.

    Args:
        seed: Seed of the weights.
        scale: The recurrent weights have variance 2 scale^2/units, so that signals and gradients grow by the factor
            `scale` per step in root mean square, if half of the units are active.
    """

    def __init__(self, seed: int, scale: float) -> None:
        super().__init__()
        g = generator("recurrent net", seed)
        self.recurrent = nn.Parameter(torch.randn(UNITS, UNITS, generator=g) * scale * math.sqrt(2 / UNITS))
        self.inputs = nn.Parameter(torch.randn(2, UNITS, generator=g) / math.sqrt(2))
        self.bias = nn.Parameter(torch.zeros(UNITS))
        self.output = nn.Parameter(torch.randn(UNITS, 1, generator=g) / math.sqrt(UNITS))
        self.offset = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor, states: list[Tensor] | None = None) -> Tensor:
        """Return predictions (batch,) for inputs (time, batch, 2); append the state of each step to `states`."""
        h = torch.zeros(x.shape[1], UNITS)
        for step in x @ self.inputs + self.bias:
            h = torch.relu(torch.addmm(step, h, self.recurrent))
            if states is not None:
                states.append(h)
        return (h @ self.output + self.offset).squeeze(1)


def adding_problem(seed: int, length: int = LENGTH, batch: int = BATCH) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield inputs (length, batch, 2) and targets (batch,).

    >>> x, y = next(adding_problem(0))
    >>> x.shape, x[..., 1].sum(0).unique().tolist(), bool(((x[..., 0] * x[..., 1]).sum(0) == y).all())
    (torch.Size([30, 32, 2]), [2.0], True)
    """
    g = generator("adding problem", seed)
    examples = torch.arange(batch)
    while True:
        values, marks = torch.rand(length, batch, generator=g), torch.zeros(length, batch)
        marks[torch.randint(0, length // 2, (batch,), generator=g), examples] = 1
        marks[torch.randint(length // 2, length, (batch,), generator=g), examples] = 1
        yield torch.stack([values, marks], 2), (values * marks).sum(0)


@dataclass(frozen=True)
class Training:
    """Result of a training run.

    Args:
        losses: Loss before each step; it ends at the first value that is not finite.
        norms: Norm of the gradient before clipping, of each step.
        diverged: Whether a loss was not finite, or the mean of the last ten losses is above the first loss.
    """

    losses: list[float]
    norms: list[float]
    diverged: bool

    @property
    def final(self) -> float:
        """Return the mean of the last ten losses."""
        last = self.losses[-10:]
        return sum(last) / len(last)


def train(seed: int, scale: float, steps: int, lr: float, **clipping: Any) -> Training:
    """Train a network with SGD, momentum .9 and the options `max_norm` or `clip_value`."""
    model = RecurrentNet(seed, scale)
    options: dict[str, Any] = {"max_norm": math.inf, **clipping}  # infinity measures the norm
    optimizer = SGD(model.parameters(), lr=lr, momentum=0.9, **options)
    losses: list[float] = []
    norms: list[float] = []
    for _, (x, y) in zip(range(steps), adding_problem(seed), strict=False):
        optimizer.zero_grad()
        loss = (model(x) - y).square().mean()
        losses.append(loss.item())
        if not math.isfinite(losses[-1]):
            return Training(losses, norms, True)
        loss.backward()
        optimizer.step()
        norms.append(float(optimizer.last_grad_norm or 0.0))
    result = Training(losses, norms, False)
    return Training(losses, norms, not result.final <= losses[0])


def first_nonfinite(seed: int, scale: float, steps: int, lr: float) -> tuple[int, str] | None:
    """Return the step of the first gradient that is not finite, counted from 0, and the message that names parameters.

    The optimizer has the option `nonfinite="raise"`. None means that all gradients of `steps` steps were finite.
    """
    model = RecurrentNet(seed, scale)
    optimizer = SGD(model.named_parameters(), lr=lr, momentum=0.9, nonfinite="raise")
    for step, (x, y) in zip(range(steps), adding_problem(seed), strict=False):
        optimizer.zero_grad()
        (model(x) - y).square().mean().backward()
        try:
            optimizer.step()
        except NonFiniteError as error:
            return step, str(error)
    return None


def growth(seed: int, scale: float) -> list[float]:
    """Return the root mean square of the gradient with respect to the state at each step, from the last to the first.

    The values are relative to the last step.
    """
    model, states = RecurrentNet(seed, scale), []
    x, y = next(adding_problem(seed))
    loss = (model(x, states) - y).square().mean()
    grads = torch.autograd.grad(loss, states)
    sizes = [float(g.square().mean().sqrt()) for g in reversed(grads)]
    return [size / sizes[0] for size in sizes]


def angles(seed: int, scale: float, clip_value: float) -> float:
    """Return the cosine between the first gradient and the same gradient with clamped elements."""
    model = RecurrentNet(seed, scale)
    x, y = next(adding_problem(seed))
    (model(x) - y).square().mean().backward()
    flat = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]).double()
    clamped = flat.clamp(-clip_value, clip_value)
    return float(flat @ clamped / (flat.norm() * clamped.norm()))
