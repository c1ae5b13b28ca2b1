"""Data sources of known and unknown length, and fits by steps that are interrupted and resumed."""

from __future__ import annotations

import random

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import dashpot as dp
from dashpot.data import Batches
from dashpot.training import Callback, CancelFit, Engine, Learner
from dashpot.training.state.checkpoint_file import read, write

NOISE = torch.Generator().manual_seed(1)
LABELS = torch.randint(0, 3, (14,), generator=NOISE)
INPUTS = torch.randn(14, 4, generator=NOISE)


def batches(count=14, size=4):
    return [(INPUTS[i : min(i + size, count)], LABELS[i : min(i + size, count)]) for i in range(0, count, size)]


class UnsizedStream:
    """Stream without a length, whose passes have 3 and 4 batches in turn."""

    def epoch(self, index):
        return iter(batches(14 if index % 2 else 12))


class UnsizedIterable:
    """Iterable without a length, which draws random numbers between its batches and skips some of them."""

    def __iter__(self):
        for x, y in batches():
            if random.random() < 0.8 or np.random.rand() < 0.2:
                yield x + 0.1 * torch.randn(x.shape), y
        yield INPUTS[:2], LABELS[:2]


class UnsizedDataset(IterableDataset):
    """Examples in an order that is drawn from the global generator and, between the examples, from Python's."""

    def __init__(self, count=14):
        self.count = count

    def __iter__(self):
        for index in torch.randperm(self.count).tolist():
            if random.random() < 0.9:
                yield INPUTS[index] + 0.1 * torch.randn(4), LABELS[index]


def shuffled(workers=0):
    return DataLoader(TensorDataset(INPUTS, LABELS), 4, shuffle=True, num_workers=workers)


SOURCES = {
    "Batches": lambda: Batches(INPUTS, LABELS, 4, shuffle=True),
    "list": batches,
    "DataLoader": shuffled,
    "unsized stream": UnsizedStream,
    "unsized iterable": UnsizedIterable,
    "IterableDataset": lambda: DataLoader(UnsizedDataset(), 4, drop_last=True),
}
"""Data of 14 examples in batches of 4, 4, 4 and 2, or of varying length."""


def interval_learner(source, *, callbacks=(), make=dp.AdamW, held_out=None, **options):
    """Return a learner with dropout and batch norm on the data `SOURCES[source]()` or `source`."""
    torch.manual_seed(5)
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(0.2), nn.Linear(8, 3))
    torch.manual_seed(6)
    random.seed(6)
    np.random.seed(6)
    data = SOURCES[source]() if isinstance(source, str) else source
    held_out = Batches(INPUTS, LABELS, 14) if held_out is None else held_out
    options = {"loss": nn.functional.cross_entropy, "lr": 0.01, "engine": Engine("cpu"), **options}
    return Learner(model, data, held_out, optimizer=make, callbacks=callbacks, **options)


class StopAfter(Callback):
    """Keep the state of the learner after a number of optimizer steps, or after the interval that ends there."""

    order = 1000

    def __init__(self, steps, at_end=False):
        self.steps, self.at_end, self.state = steps, at_end, None

    def after_batch(self, learner):
        if learner.training and learner.batch.stepped and learner.steps == self.steps and not self.at_end:
            self._keep(learner)

    def cleanup_epoch(self, learner):
        ended = learner.loop.position == (learner.epoch + 1, 0)
        if self.at_end and ended and learner.steps == self.steps and learner.loop.unwinding is None:
            self._keep(learner)

    def _keep(self, learner):
        self.state = learner.state_dict()
        self.state["callbacks"].pop("StopAfter")
        raise CancelFit


def stopped_and_resumed(make, folder, at, *, at_end=False, **fit):
    """Return a learner that resumes a fit from a file, which a second learner has written after `at` steps."""
    first = make()
    first.fit(callbacks=[stop := StopAfter(at, at_end)], **fit)
    assert stop.state is not None
    write(folder / "state.ckpt", stop.state)
    resumed = make()
    for p in resumed.model.parameters():
        nn.init.zeros_(p)
    torch.manual_seed(99)
    random.seed(99)
    np.random.seed(99)
    resumed.fit(resume=read(folder / "state.ckpt"), **fit)
    return resumed


def uninterrupted(make, **fit):
    made = make()
    made.fit(**fit)
    return made
