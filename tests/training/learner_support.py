"""Small problems and learners for the tests of the training loop."""

from __future__ import annotations

import copy

import torch
from torch import nn

import dashpot as dp
from dashpot.data import Batches
from dashpot.tasks import Problem, accuracy
from dashpot.training import Callback, CancelFit, Engine, Learner


def problem(examples: int = 10, batch_size: int = 4, seed: int = 0, dtype: torch.dtype = torch.float32) -> Problem:
    """Three classes from four numbers, with dropout and batch norm; batches of 4, 4 and 2, reordered every epoch."""
    draw = torch.Generator().manual_seed(seed)
    x, y = torch.randn(examples, 4, generator=draw, dtype=dtype), torch.randint(0, 3, (examples,), generator=draw)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(0.2), nn.Linear(8, 3)).to(dtype)
    return Problem(
        model=model,
        train=Batches(x, y, batch_size, shuffle=True, seed=seed),
        evaluation=Batches(x, y, examples),
        loss=nn.functional.cross_entropy,
        metrics={"accuracy": accuracy},
    )


def learner(make=dp.AdamW, lr=0.01, callbacks=(), engine=None, **shape) -> Learner:
    return Learner.of(problem(**shape), make, lr=lr, callbacks=callbacks, engine=engine or Engine("cpu"))


class StopAt(Callback):
    """Keeps the learner's state after that many batches of training, and ends the fit there."""

    order = 1000

    def __init__(self, batches: int) -> None:
        self.batches, self.state = batches, None

    def after_batch(self, learner):
        epoch, batch = learner.loop.position
        if learner.training and epoch * len(learner.train) + batch == self.batches:
            self.state = copy.deepcopy(learner.state_dict())
            self.state["callbacks"].pop("StopAt")
            raise CancelFit


def weights(learner: Learner) -> list[torch.Tensor]:
    return [value.clone() for value in learner.model.state_dict().values()]


def same(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
