"""Tasks of many forms: equal results with accumulation and after a resume; two processes are in test_distributed.py."""

from __future__ import annotations

import copy

import pytest
import torch
from learner_support import same, weights
from slow_values import others_slow
from task_table import BATCH, TABLE

from dashpot.training import Callback, CancelFit, Recorder

TOLERANCE = 1e-6
"""Tolerance relative to the largest weight, for float32 means whose examples are summed in a different order."""
STEPS = 3


def fitted(name, epochs=2, **options):
    torch.manual_seed(4)
    learner = TABLE[name].learner(**options)
    learner.fit(epochs)
    return learner


def values(learner):
    return [value for epoch in learner.history for phase in sorted(epoch) for value in epoch[phase].values()]


@pytest.fixture(scope="module")
def whole():
    """Return a function that fits a task in one process with batches of 8 examples, once."""
    fits = {}
    return lambda name: fits.setdefault(name, fitted(name, callbacks=[Recorder()]))


@pytest.mark.parametrize("name", TABLE)
@pytest.mark.parametrize("size", [4, pytest.param(2, marks=pytest.mark.slow), pytest.param(1, marks=pytest.mark.slow)])
def test_accumulated_fit_equals_large_batches(whole, name, size):
    one, seen = whole(name), Recorder()
    several = fitted(name, batch_size=size, callbacks=[seen])
    assert several.steps == one.steps == 2 * STEPS
    torch.testing.assert_close(weights(several), weights(one), rtol=TOLERANCE, atol=TOLERANCE)
    assert values(several) == pytest.approx(values(one), rel=TOLERANCE)
    assert seen.values["loss"] == pytest.approx(one._callbacks[-1].values["loss"], rel=TOLERANCE)


class StopAt(Callback):
    """Copy the state at a position of the training, and cancel the fit."""

    order = 1000
    essential = False

    def __init__(self, *position):
        self.position = position

    def after_batch(self, learner):
        if learner.training and learner.loop.position == self.position:
            self.state = copy.deepcopy(learner.state_dict())
            raise CancelFit


@pytest.mark.parametrize("name", others_slow(TABLE, "ragged loader", "tokens", "iterable"))
@pytest.mark.parametrize("size", [BATCH, pytest.param(4, marks=pytest.mark.slow)])
def test_resumed_fit_is_bit_identical(name, size):
    stop, uninterrupted = StopAt(1, BATCH // size), fitted(name, batch_size=size)
    torch.manual_seed(4)
    TABLE[name].learner(size, callbacks=[stop]).fit(2)
    resumed = TABLE[name].learner(size)
    torch.manual_seed(5)
    resumed.fit(2, resume=stop.state)
    assert same(weights(resumed), weights(uninterrupted))
    assert resumed.history == uninterrupted.history


@pytest.mark.parametrize("name", TABLE)
def test_evaluation_does_not_depend_on_batch_size(whole, name):
    learner, data = whole(name), TABLE[name].data
    expected = learner.evaluate(data(19))
    assert 0 < expected["hits"] <= 1
    for size in (1, 4, 8):
        assert learner.evaluate(data(size)) == pytest.approx(expected, rel=TOLERANCE)


@pytest.mark.parametrize("name", TABLE)
def test_counts_are_those_of_the_examples(whole, name):
    learner = whole(name)
    assert [batch.size for batch in learner.train.batches(0)] == [8, 8, 3]
