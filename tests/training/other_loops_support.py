"""Plain PyTorch loop with which the loops of the frameworks are compared."""

from __future__ import annotations

import pytest
import torch
from loop_frameworks import LIGHTNING_WARNINGS
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import dashpot as dp
from dashpot.schedules import Cosine, OneCycle, OneCycleMomentum, Scheduler

MICRO, SIZE, EPOCHS = 7, 8, 3
"""Micro-batches per epoch, their size, and epochs. With two micro-batches per step, the fourth step has only one."""


def network():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3))


def micro_batches():
    drawn = torch.Generator().manual_seed(2)
    x, y = torch.randn(MICRO * SIZE, 5, generator=drawn), torch.randint(3, (MICRO * SIZE,), generator=drawn)
    return DataLoader(TensorDataset(x, y), batch_size=SIZE)


def loss_of(model, batch):
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


def adamw(params):
    """Return AdamW and a scheduler for two micro-batches per step, which give 4 steps per epoch."""
    opt = dp.AdamW(params, lr=0.05, weight_decay=0.1)
    return opt, Scheduler(opt, lr=OneCycle(4 * EPOCHS), momentum=OneCycleMomentum(4 * EPOCHS))


def autosgm(params):
    """Return AutoSGM with its own schedule, and None as the scheduler."""
    return dp.AutoSGM(params, lr=0.05, numerator=1, schedule=Cosine(4 * EPOCHS), max_norm=0.5), None


METHODS = {"adamw": adamw, "autosgm": autosgm}
methods = pytest.mark.parametrize("make", METHODS.values(), ids=METHODS)
resumed_methods = pytest.mark.parametrize("make", [pytest.param(adamw, marks=pytest.mark.slow), autosgm], ids=METHODS)
accumulations = pytest.mark.parametrize("accumulate", [1, 2])


def plain(make, accumulate=1, clip=None, epochs=EPOCHS):
    """Return the weights of a plain loop that steps after every `accumulate` micro-batches and after each epoch."""
    model = network()
    opt, scheduler = make(model.parameters())
    for _ in range(epochs):
        for k, batch in enumerate(micro_batches()):
            (loss_of(model, batch) / accumulate).backward()
            if (k + 1) % accumulate == 0 or k + 1 == MICRO:
                if clip is not None:
                    nn.utils.clip_grad_norm_(model.parameters(), clip)
                opt.step()
                if scheduler is not None:
                    scheduler.step()
                opt.zero_grad()
    return weights(model)


def sophia():
    """Return a factory that records its optimizers, which compute products at steps 0, 10, 20."""

    def make(params):
        made.append(dp.Sophia(params, lr=0.05))
        return made[-1], None

    make.made = made = []
    return make


def plain_closures(make):
    model = network()
    opt, _ = make(model.parameters())
    for _ in range(EPOCHS):
        for batch in micro_batches():

            def closure(batch=batch):
                opt.zero_grad()
                loss = loss_of(model, batch)
                loss.backward()
                return loss

            opt.step(closure)
    return weights(model)


def weights(model):
    return torch.cat([p.detach().flatten().clone() for p in model.parameters()])


lightning_warnings = pytest.mark.filterwarnings(*LIGHTNING_WARNINGS)
