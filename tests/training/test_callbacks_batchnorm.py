"""Batch-norm statistics of averaged weights."""

from __future__ import annotations

import copy

import pytest
import torch
from learner_support import At, problem, same, weights
from torch import nn

from dashpot.data import Batches
from dashpot.tasks import Problem
from dashpot.training import SWA, Callback, Checkpoints, Engine, Learner, read_newest


class TwoInputs(nn.Module):
    """Model with two arguments."""

    def __init__(self):
        super().__init__()
        self.norm, self.last = nn.BatchNorm1d(4), nn.Linear(4, 3)

    def forward(self, a, b):
        return self.last(self.norm(a + b))


@pytest.mark.parametrize("evaluate", [True, False])
def test_statistics_use_inputs_changed_by_callbacks(evaluate):
    """Dividing the data in `before_batch` or beforehand gives the same statistics; `predict` is called."""

    class Divide(Callback):
        def before_batch(self, learner):
            learner.batch.x = learner.batch.x / 64

    class PredictTwo(Callback):
        def predict(self, learner, proceed):
            learner.batch.output = learner.forward(learner.batch.x, learner.batch.x * 0)

    def statistics(scale, *callbacks):
        given = problem(examples=12)
        torch.manual_seed(0)
        train = Batches(given.train.x * scale, given.train.y, 4, shuffle=True)
        made = Problem(TwoInputs(), train, given.loss, Batches(given.train.x * scale, given.train.y, 12), {})
        one = Learner.of(
            made, torch.optim.SGD, lr=0.1, engine=Engine("cpu"), callbacks=[SWA(0), PredictTwo(), *callbacks]
        )
        one.fit(2, evaluate=evaluate)
        return one.model.norm.running_var

    # Division by a power of two is exact.
    torch.testing.assert_close(statistics(1.0, Divide()), statistics(1 / 64), rtol=0, atol=0)


def test_statistics_of_finished_run_use_its_last_epoch(tmp_path):
    given = problem(examples=12)
    train = Batches(given.train.x, given.train.y, 4, seed=1, augment=lambda x, _: x + 5, augment_from=1)

    def made(*callbacks):
        shape = {"loss": given.loss, "optimizer": torch.optim.SGD, "lr": 0.1, "engine": Engine("cpu")}
        return Learner(copy.deepcopy(given.model), train, callbacks=[SWA(0), *callbacks], **shape)

    uninterrupted, resumed = made(Checkpoints(tmp_path)), made()
    torch.manual_seed(2)
    uninterrupted.fit(3)
    resumed.fit(3, resume=read_newest(tmp_path))
    assert same(weights(uninterrupted), weights(resumed))


class TwoParts(nn.Module):
    """Model whose batch norm has a different input for each of two optimizers."""

    def __init__(self):
        super().__init__()
        self.norm, self.last = nn.BatchNorm1d(4), nn.Linear(4, 3)

    def forward(self, x, part):
        return self.last(self.norm(x if part == "last" else 3 * x + 1))


def test_statistics_with_several_optimizers_use_the_inputs_of_each():
    def fitted(*callbacks):
        torch.manual_seed(0)
        train = problem(examples=12).train
        losses = dict.fromkeys(["norm", "last"], nn.functional.cross_entropy)
        one = Learner(TwoParts(), train, Batches(train.x, train.y, 12), loss=losses, lr=0.1, engine=Engine("cpu"),
                      optimizer=dict.fromkeys(losses, torch.optim.SGD), callbacks=[SWA(0), *callbacks])  # fmt: skip
        one.fit(2)
        return one

    one = fitted()
    inputs = torch.cat([one.train.source.x, 3 * one.train.source.x + 1]).double()
    # The mean of the means of six inputs of four examples each, in float32.
    torch.testing.assert_close(one.model.norm.running_mean, inputs.mean(0).float(), rtol=1e-5, atol=1e-6)
    probed = fitted(At("after_backward", lambda learner: learner.evaluate(), order=90))
    assert same(weights(probed), weights(one))
