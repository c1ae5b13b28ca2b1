"""`Learner.predict`: outputs in order, for data with and without targets, and its effect on a running fit."""

from __future__ import annotations

from collections import namedtuple
from typing import Any

import pytest
import torch
from learner_support import At, X, Y, learner, linear_learner, pairs, problem, same, weights
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from dashpot.data import Batches
from dashpot.errors import ArgumentError, RunError
from dashpot.tasks import WholeEpoch
from dashpot.training import EMA, Callback, CancelBatch, Engine, Learner
from dashpot.training.predictions import concatenate

Boxes = namedtuple("Boxes", ["corners", "scores"])


class Unlabelled:
    """Stream of inputs without targets."""

    def __len__(self):
        return 3

    def epoch(self, index):
        return iter(X.split(4))


@pytest.mark.parametrize(
    "data",
    [
        Batches(X, Y, 5),
        pairs(),
        [[x, y] for x, y in pairs()],
        DataLoader(TensorDataset(X, Y), 5),
        Unlabelled(),
        list(X.split(5)),
        DataLoader(TensorDataset(X), 5),
        DataLoader(list(X), 5),
    ],
    ids=["stream", "list", "lists", "loader", "unlabelled stream", "inputs", "TensorDataset of x", "loader of x"],
)
def test_predict_returns_outputs_in_order(data):
    subject = linear_learner(pairs(), model=nn.Sequential(nn.Linear(3, 2), nn.Dropout(0.9)))
    found = subject.predict(data)
    subject.model.eval()
    # the matrix products of batches of different sizes may round differently
    torch.testing.assert_close(found, subject.model(X).detach(), rtol=1e-6, atol=1e-7)
    assert not found.requires_grad


class Reused(nn.Module):
    """Module that returns the same tensor for every batch."""

    def __init__(self):
        super().__init__()
        self.register_buffer("output", torch.zeros(4, 3))

    def forward(self, x):
        return self.output.copy_(x)


def test_outputs_in_reused_memory_are_copied():
    metrics = {"sum": WholeEpoch(lambda output, y: output.double().sum())}
    subject = linear_learner(pairs(), model=Reused(), loss=lambda output, y: output.sum(), metrics=metrics)
    assert torch.equal(subject.predict(pairs()), X)
    assert subject.evaluate(pairs())["sum"] == pytest.approx(X.double().sum().item(), rel=1e-12)


class Sum(nn.Module):
    def forward(self, x):
        return x[0] + 10 * x[1]


def test_predict_of_two_inputs_without_targets_needs_labelled_false():
    subject = Learner(Sum(), pairs(), loss=nn.functional.cross_entropy, optimizer=torch.optim.SGD, engine=Engine("cpu"))
    data = DataLoader(TensorDataset(X, X), 5)
    torch.testing.assert_close(subject.predict(data, labelled=False), 11 * X)
    torch.testing.assert_close(linear_learner(pairs(), model=nn.Identity()).predict(data), X)


def test_predict_with_labelled_true_rejects_other_items():
    with pytest.raises(ArgumentError, match=r"data must yield pairs \(x, y\), got a tensor of shape"):
        linear_learner(pairs()).predict([X], labelled=True)


class Nested(nn.Module):
    def forward(self, x):
        mean = x.mean(1)
        return {
            "pair": (x, Boxes(mean, x[:, :1])),
            "ragged": [row[: 1 + index] for index, row in enumerate(x)],
            "fixed": [x, mean, None],
            "words": x[:, : len(x) // 2],
            "total": x.sum(),
            "tag": "batch",
        }


def test_predict_keeps_the_structure_of_nested_outputs():
    found = linear_learner(pairs(), model=Nested()).predict([X[:4], X[4:10]])
    x = X[:10]
    assert torch.equal(found["pair"][0], x)
    assert type(found["pair"][1]) is Boxes
    assert torch.equal(found["pair"][1].corners, x.mean(1))
    assert [len(row) for row in found["ragged"]] == [1, 2, 3, 3, 1, 2, 3, 3, 3, 3]
    assert torch.equal(found["fixed"][0], x)
    assert torch.equal(found["fixed"][1], x.mean(1))
    assert found["fixed"][2] is None
    assert [tuple(row.shape) for row in found["words"]] == [(2,)] * 4 + [(3,)] * 6
    assert torch.equal(found["total"], torch.stack([X[:4].sum(), X[4:10].sum()]))
    assert found["tag"] == ["batch", "batch"]


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ([torch.zeros(1), (torch.zeros(1),)], "the same structure for every batch, got Tensor and tuple"),
        ([{"a": 1}, {"b": 1}], "the same structure for every batch, got dict"),
        ([[1, 2, 3], [1, 2]], "an item per example or the same length for every batch, got lengths 2, 3"),
    ],
)
def test_concatenate_of_different_structures_raises(outputs, message):
    with pytest.raises(ArgumentError, match=message):
        concatenate([(1, output) for output in outputs], 1)


def test_concatenate_of_scalars_on_several_ranks_raises():
    with pytest.raises(ArgumentError, match="outputs must have a batch dimension, got a 0-d tensor"):
        concatenate([(1, torch.tensor(1.0))], 2)


def test_predict_within_a_fit_uses_averages_and_does_not_affect_the_fit():
    def fitted(*callbacks):
        torch.manual_seed(1)
        ema = EMA(0.5)
        subject = learner(callbacks=[ema, *callbacks])
        subject.fit(2)
        return subject, ema

    found: list[Any] = []
    hook = At("after_batch", lambda learner: found.append(learner.predict(problem().evaluation)), order=30)
    (actual, ema), (expected, _) = fitted(hook), fitted()
    assert same(weights(actual), weights(expected))
    assert actual.history == expected.history
    other = problem()
    other.model.load_state_dict(ema.weights())
    other.model.eval()
    assert torch.equal(found[-1], other.model(other.evaluation.x).detach())


def test_predict_calls_events_up_to_after_predict_without_targets():
    events = []

    class Events(Callback):
        def __init__(self):
            for event in (
                "before_batch",
                "after_predict",
                "after_loss",
                "after_batch",
                "cleanup_batch",
                "before_epoch",
            ):
                setattr(self, event, lambda learner, event=event: events.append((event, learner.batch.y)))

        def predict(self, learner, proceed):
            learner.batch.output = 2 * learner.forward(learner.batch.x)

    subject = linear_learner(pairs(), callbacks=[Events()])
    found = subject.predict([(X, Y)])
    torch.testing.assert_close(found, 2 * subject.model(X).detach())
    assert events == [("before_batch", None), ("after_predict", None), ("cleanup_batch", None)]


def test_predict_with_cancelled_batch_raises_and_restores_the_learner():
    def cancel(learner):
        raise CancelBatch

    subject = linear_learner(pairs(), callbacks=[At("before_batch", cancel)])
    before = dict(vars(subject))
    with pytest.raises(RunError, match="no batch must be cancelled, but CancelBatch was raised in batch 1"):
        subject.predict(pairs())
    assert vars(subject) == before | {"_module": subject._module}
    assert subject.model.training


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"data": X}, r"predict: data must yield batches, .* got a tensor of shape \(12, 3\)"),
        ({"data": X.numpy()}, r"predict: data must yield batches, .* got an array of shape \(12, 3\); convert it"),
        ({"data": (X, Y)}, "predict: data must yield batches, .* got a tuple of 2 tensors"),
        ({"data": []}, "data must contain at least one batch"),
        ({"data": 3}, "data must be dashpot.data.Batches"),
        ({"data": [X], "labelled": 1}, "labelled must be True, False or None, got 1"),
    ],
)
def test_predict_with_invalid_arguments_raises(arguments, message):
    with pytest.raises(ArgumentError, match=message):
        linear_learner(pairs()).predict(**arguments)
