"""Problems whose loss is a mean over counts other than the number of examples."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from dashpot.data import Batches
from dashpot.training import Accumulate, Engine, Learner

IGNORED = -100
EXAMPLES = 19
CLASS_WEIGHTS = torch.tensor([0.2, 1.7, 3.0], dtype=torch.float64)


def data(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return inputs of shape (19, 6) and labels of shape (19, 5); about half of the labels are ignored."""
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(EXAMPLES, 6, generator=draw, dtype=torch.float64).to(dtype)
    y = torch.randint(3, (EXAMPLES, 5), generator=draw)
    y[torch.rand(EXAMPLES, 5, generator=draw) < 0.5] = IGNORED
    y[:, 0] = torch.arange(EXAMPLES) % 3  # a counted label in every example
    return x, y


def sum_and_count(output: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    return nn.functional.cross_entropy(output, y, reduction="sum"), (y != IGNORED).sum()


def mean(output: Tensor, y: Tensor) -> Tensor:
    return nn.functional.cross_entropy(output, y)


def counted(output: Tensor, y: Tensor) -> Tensor:
    return (y != IGNORED).sum()


def class_mean(output: Tensor, y: Tensor) -> Tensor:
    return nn.functional.cross_entropy(output, y, weight=CLASS_WEIGHTS.to(output.dtype))


def class_weight(output: Tensor, y: Tensor) -> Tensor:
    return CLASS_WEIGHTS[y[y != IGNORED]].sum()


def masked(output: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Squared error over the elements of a mask."""
    mask = (y != IGNORED).to(output.dtype)
    return ((output[:, 0] - y).square() * mask).sum(), mask.sum()


def plain(output: Tensor, y: Tensor) -> Tensor:
    """Mean over the examples."""
    return nn.functional.cross_entropy(output, y[:, 0][:, None].expand(-1, 5))


LOSSES: dict[str, dict[str, Any]] = {
    "sum and count": {"loss": sum_and_count},
    "weight": {"loss": mean, "weight": counted},
    "class weights": {"loss": class_mean, "weight": class_weight},
    "mask": {"loss": masked},
    "examples": {"loss": plain},
}
"""Losses and weights, by name."""


def hits(output: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    return ((output.argmax(1) == y) & (y != IGNORED)).sum(), (y != IGNORED).sum()


class Scores(nn.Module):
    """Reshape to (examples, 3, 5), without a view, about which FSDP2 warns."""

    def forward(self, x: Tensor) -> Tensor:
        return x.unflatten(1, (3, 5)).clone()


def model(dtype: torch.dtype) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 15), Scores()).to(dtype)


def learner(
    optimizer: Any,
    loss: str,
    batch_size: int = 8,
    accumulate: int = 1,
    dtype: torch.dtype = torch.float64,
    engine: Engine | None = None,
    **options: Any,
) -> Learner:
    x, y = data(dtype)
    options = {"lr": 0.05, "metrics": {"hits": hits}, **LOSSES[loss], **options}
    callbacks = [Accumulate(accumulate), *options.pop("callbacks", [])]
    return Learner(
        model(dtype),
        Batches(x, y, batch_size, shuffle=True, seed=0),
        Batches(x, y, batch_size),
        optimizer=optimizer,
        engine=engine or Engine("cpu"),
        callbacks=callbacks,
        **options,
    )


def values(one: Learner) -> list[float]:
    """Return all means of the history."""
    return [value for epoch in one.history for phase in sorted(epoch) for value in epoch[phase].values()]
