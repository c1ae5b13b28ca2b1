"""Lifetime of outputs, losses and graphs: those of a batch are freed before the next forward pass."""

from __future__ import annotations

import gc
import weakref
from functools import partial

import pytest
import torch
from learner_support import X, Y, fp16, learner, pairs
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import dashpot as dp
from dashpot import tasks
from dashpot.data import Batches
from dashpot.training import SWA, Accumulate, Callback, ClipGradients, Engine, Learner, NonFinite, Recorder, find_lr


class Recorded(nn.Module):
    """Linear model that counts, at the start of each call, its earlier outputs that still exist."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 2))
        self.outputs, self.alive, self.losses = [], [], []

    def forward(self, x):
        self.alive.append(sum(ref() is not None for ref in (*self.outputs, *self.losses)))
        output = self.layer(x)
        self.outputs.append(weakref.ref(output))
        return output

    def loss(self, output, y):
        loss = nn.functional.cross_entropy(output, y)
        self.losses.append(weakref.ref(loss))
        return loss


@pytest.fixture(autouse=True)
def _without_garbage_collection():
    """Only reference counting may free the tensors."""
    gc.disable()
    yield
    gc.enable()


def recorded_learner(train, make=dp.SGD, engine=None, **options):
    model = Recorded()
    options = {"evaluation": pairs(), "metrics": {"accuracy": tasks.accuracy}, "lr": 0.01, **options}
    return Learner(model, train, loss=model.loss, optimizer=make, engine=engine or Engine("cpu"), **options)


class Keep(Callback):
    """Read the output in every event that has one."""

    def after_predict(self, learner):
        assert learner.batch.output is not None

    after_loss = after_backward = after_batch = cleanup_batch = after_epoch = after_predict


@pytest.mark.parametrize(
    ("train", "options"),
    [
        (Batches(X, Y, 4), {}),
        (pairs(), {"make": torch.optim.Adam}),
        (DataLoader(TensorDataset(X, Y), batch_size=4), {"engine": "fp16"}),
        (Batches(X, Y, 3), {"callbacks": [Accumulate(2), Keep()]}),
        (Batches(X, Y, 4), {"callbacks": [NonFinite(), ClipGradients(1.0), Recorder("lr", "grad_norm"), SWA(1)]}),
        (Batches(X, Y, 4), {"make": partial(dp.AdaHessian, probe="differences", update_d_every=1)}),
    ],
    ids=["stream", "list", "DataLoader with fp16", "accumulation", "callbacks", "differences"],
)
def test_output_and_loss_are_freed_before_next_forward(train, options):
    if options.get("engine") == "fp16":
        options = {**options, "engine": fp16()}
    subject = recorded_learner(train, **options)
    subject.fit(3)
    calls = subject.model.alive
    assert len(calls) >= 3 * (len(subject.train) + len(subject.evaluation))
    # A closure that evaluates the loss again begins while the output and the loss of the same batch exist.
    assert set(calls) == ({0, 2} if isinstance(options.get("make"), partial) else {0})


def test_find_lr_and_second_fit_free_output_of_last_batch():
    subject = recorded_learner(pairs(), evaluation=None)
    subject.fit(1)
    assert subject.batch.output is not None
    find_lr(subject, steps=3)
    subject.fit(1)
    assert set(subject.model.alive) == {0}


def test_evaluate_frees_output_before_next_forward():
    model = Recorded()
    problem = tasks.Problem(model=model, train=Batches(X, Y, 4), evaluation=Batches(X, Y, 4), loss=model.loss)
    tasks.evaluate(problem)
    assert model.alive == [0, 0, 0]


def test_output_of_last_batch_is_available_after_the_epoch():
    subject = learner(callbacks=[Keep()])
    subject.fit(2)
    assert subject.batch.output.shape == (10, 3)
