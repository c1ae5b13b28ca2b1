"""Distributed checks of plain optimizers and of activation statistics."""

from __future__ import annotations

import warnings
from functools import partial

import pytest
import torch
from distributed_support import TOLERANCE, assert_same, assert_trained, learner

from dashpot.errors import RunError
from dashpot.training import Activations


class Momentum:
    """Gradient descent with momentum, with its state on the parameters."""

    def __init__(self, params, lr):
        self.params, self.lr = list(params), lr

    def step(self):
        with torch.no_grad():
            for p in self.params:
                p.average = 0.9 * getattr(p, "average", 0) + 0.1 * p.grad
                p -= self.lr * p.average

    def zero_grad(self):
        for p in self.params:
            p.grad.zero_()

    def state_dict(self):
        return {"averages": [p.average for p in self.params]}

    def load_state_dict(self, state):
        for p, average in zip(self.params, state["averages"], strict=True):
            p.average = average


def plain_optimizer_equals_one_process(strategy: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the class can be saved and has a learning rate
        actual, expected = (
            learner(partial(Momentum, lr=0.1), where, dtype=torch.float64) for where in (strategy, None)
        )
        actual.fit(2)
    expected.fit(2)
    assert_trained(actual)
    for ours, theirs in zip(actual.model.parameters(), expected.model.parameters(), strict=True):
        full = ours.full_tensor() if hasattr(ours, "full_tensor") else ours  # pyright: ignore[reportAttributeAccessIssue]
        torch.testing.assert_close(full, theirs, rtol=1e-12, atol=1e-12)
    if strategy == "fsdp":
        with pytest.raises(RunError, match="state of Momentum cannot be saved with strategy='fsdp'"):
            actual.state_dict()
    else:
        assert_same(actual, expected, TOLERANCE[torch.float64])


def activations_equal_those_of_one_process(strategy: str) -> None:
    """The last batch has one example, so that rank 1 has none."""
    recorded = []
    for where in (strategy, None):
        activations = Activations(bins=8, limits=(-1, 1), threshold=0.1)
        learner(partial(torch.optim.SGD, lr=0.1), where, 2, dtype=torch.float64).fit(2, callbacks=[activations])
        recorded.append(activations)
    actual, expected = recorded
    assert actual.steps == expected.steps == [1, 2, 3, 4]
    assert list(actual.values) == ["1"]
    for name, values in expected.values["1"].items():
        assert actual.values["1"][name] == pytest.approx(values, rel=1e-9)  # the batch is summed in two parts
    assert torch.equal(actual.histogram("1"), expected.histogram("1"))
    assert actual.histogram("1").sum(0).tolist() == [70, 7, 70, 7]
