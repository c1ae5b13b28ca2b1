"""Small problems, learners and callbacks for tests of the training loop."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

import dashpot as dp
from dashpot.data import Batches
from dashpot.tasks import Problem, accuracy
from dashpot.training import Callback, CancelFit, Engine, Learner

X = torch.randn(12, 3, generator=torch.Generator().manual_seed(0))
Y = torch.arange(12) % 2


def problem(examples: int = 10, batch_size: int = 4, seed: int = 0, dtype: torch.dtype = torch.float32) -> Problem:
    """Return a problem of 3 classes and 4 inputs with dropout, batch norm, and shuffled batches of 4, 4 and 2."""
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


def linear_learner(train, make: Any = torch.optim.SGD, *, model: Any = None, lr: float | None = 0.1, **options):
    """Return a learner of a linear model with three inputs and two classes, on any training data."""
    torch.manual_seed(3)
    model = nn.Linear(3, 2) if model is None else model
    options = {"loss": nn.functional.cross_entropy, **options}
    return Learner(model, train, optimizer=make, lr=lr, engine=Engine("cpu"), **options)


def pairs(size=4):
    """Return `X` and `Y` as a list of batches."""
    return [(X[i : i + size], Y[i : i + size]) for i in range(0, 12, size)]


def fp16(scale=2.0**10, interval=2000):
    engine = Engine("cpu", precision="fp16")
    engine.scaler = torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=interval)
    return engine


class StopAt(Callback):
    """Copy the state of the learner after a number of training batches, and cancel the fit."""

    order = 1000

    def __init__(self, batches: int) -> None:
        self.batches, self.state = batches, None

    def after_batch(self, learner):
        epoch, batch = learner.loop.position
        if learner.training and epoch * len(learner.train) + batch == self.batches:
            self.state = copy.deepcopy(learner.state_dict())
            self.state["callbacks"].pop("StopAt")
            raise CancelFit


class At(Callback):
    """Call `function(learner)` at one event."""

    def __init__(self, event, function, order=0):
        self.order = order  # pyright: ignore[reportAttributeAccessIssue]
        setattr(self, event, function)


class KeepGradients(Callback):
    """Scale the gradients by 0.85 instead of clearing them."""

    def zero_grad(self, learner, proceed):
        for p in learner.model.parameters():
            p.grad *= 0.85


def raise_if(error, condition):
    """Return a hook that raises `error` if `condition(learner)` is true."""

    def hook(learner):
        if condition(learner):
            raise error

    return hook


def call_if(function, condition):
    """Return a hook that calls `function(learner)` if `condition(learner)` is true."""
    return lambda learner: function(learner) if condition(learner) else None


def on_batch(*indices):
    """Return a condition that is true for training batches with one of these indices."""
    return lambda learner: learner.training and learner.batch.index in indices


def multiply_loss(factor):
    """Return a hook that multiplies the loss."""

    def hook(learner):
        learner.batch.loss = learner.batch.loss * factor

    return hook


def weights(learner: Learner) -> list[torch.Tensor]:
    return [value.clone() for value in learner.model.state_dict().values()]


def same(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
