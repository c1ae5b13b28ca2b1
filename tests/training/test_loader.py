"""Loaders of the learner: numbers of examples, lengths, and samplers with state."""

from __future__ import annotations

from typing import Any, cast

import pytest
import torch
from learner_support import StopAt, X, Y, linear_learner, pairs, problem, same, weights
from slow_values import others_slow
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import dashpot as dp
from dashpot.errors import ArgumentError, RunError
from dashpot.training import Engine, Learner
from dashpot.training.distributed.data_sharding import slice_examples

# ---- number of examples ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pack", [lambda y: (y, y.float()), lambda y: {"label": y}], ids=["tuple", "dict"])
def test_examples_are_counted_in_tensors_of_y(pack):
    def first(y):
        return y[0] if isinstance(y, tuple) else y["label"]

    one = linear_learner(
        [(x, pack(y)) for x, y in pairs()],
        loss=lambda output, y: nn.functional.cross_entropy(output, first(y)),
        metrics={"share": lambda output, y: (first(y) >= 0).sum()},
    )
    one.fit(1)
    plain = linear_learner(pairs())
    plain.fit(1)
    assert one.history[0]["train"]["share"] == 1.0
    assert one.history[0]["train"]["loss"] == plain.history[0]["train"]["loss"]


def test_examples_are_counted_in_x_if_y_has_none():
    one = linear_learner([(X[:5], None), (X[5:], torch.tensor(0.0))], loss=lambda output, y: output.square().mean())
    one.fit(1)
    assert one.loop.means.count == 12
    with pytest.raises(ArgumentError, match="batches with countable examples, got x: None, y: None; pass size="):
        linear_learner([(None, None)]).fit(1)


def test_slice_examples_of_0d_tensor_raises():
    with pytest.raises(ArgumentError, match="a row for each example, got a 0-d tensor; with several processes, use"):
        slice_examples((torch.zeros(3), torch.tensor(1.0)), slice(0, 1), 3)


# ---- lengths --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("length", "got"), [(4, "3"), (2, "more")])
def test_wrong_number_of_batches_raises(length, got):
    class WrongLength(list):
        def __len__(self):
            return length

    with pytest.raises(RunError, match=f"= {length} batches, got {got}"):
        linear_learner(WrongLength(pairs())).fit(1)


class WithoutLength(IterableDataset):
    """Data set without a length, so that `__len__` of its loader raises an error."""

    def __iter__(self):
        return iter([(torch.zeros(4), torch.tensor(0))] * 8)


def test_iterators_raise():
    with pytest.raises(ArgumentError, match=r"^Learner: train must be .*, which can be read only once; its "):
        linear_learner(iter(pairs()))


@pytest.mark.parametrize("owner", ["train", "evaluation"])
def test_loader_without_length_has_no_size(owner):
    data = problem()
    sources = {"train": data.train, "evaluation": data.evaluation, owner: DataLoader(WithoutLength(), 4)}
    one = Learner(data.model, **sources, loss=data.loss, optimizer=dp.AdamW, engine=Engine("cpu"))
    one.fit(2)
    assert getattr(one, owner).size is None
    assert one.steps == (4 if owner == "train" else 6)


class EpochAttribute(DataLoader):
    """Loader whose attribute `epoch` is not a method."""

    epoch = 0


def test_attribute_named_epoch_does_not_make_a_stream():
    seen = []
    for kind in (DataLoader, EpochAttribute):
        data = problem()
        loader = kind(TensorDataset(cast(Any, data.train).x, cast(Any, data.train).y), batch_size=4)
        one = Learner(data.model, loader, loss=nn.functional.cross_entropy, optimizer=dp.AdamW, engine=Engine("cpu"))
        torch.manual_seed(2)
        one.fit(1)
        seen.append(one.history)
    assert seen[0] == seen[1]


# ---- samplers with state --------------------------------------------------------------------------------------------


class Orders:
    """Sampler with a different order for every `number`."""

    number = 0

    def __len__(self):
        return 12

    def __iter__(self):
        return iter(torch.randperm(12, generator=torch.Generator().manual_seed(self.number)).tolist())


class ByEpoch(Orders):
    """Sampler whose order depends on the epoch passed to `set_epoch`."""

    def set_epoch(self, epoch):
        self.number = epoch


class ByIteration(Orders):
    """Sampler whose order depends on the number of iterations, which is its state."""

    def __init__(self):
        self.state = {"count": 0}

    def state_dict(self):
        return self.state

    def load_state_dict(self, state):
        self.state = state

    def __iter__(self):
        self.state["count"] += 1
        self.number = self.state["count"]
        return super().__iter__()


@pytest.mark.diagonal
@pytest.mark.parametrize("kind", [ByEpoch, ByIteration])
@pytest.mark.parametrize("at", others_slow([1, 3, 4, 5], 3, 4))
def test_stateful_sampler_resumes_within_epoch(kind, at):
    def loaded():
        return linear_learner(DataLoader(TensorDataset(X, Y), batch_size=4, sampler=kind()))

    uninterrupted, stopped, resumed = loaded(), loaded(), loaded()
    uninterrupted.fit(3)
    stopped.fit(3, callbacks=[stop := StopAt(at)])
    resumed.fit(3, resume=stop.state)
    assert same(weights(uninterrupted), weights(resumed))
    assert uninterrupted.history == resumed.history
    assert (
        uninterrupted.train.source.sampler.number
        == resumed.train.source.sampler.number
        == (2 if kind is ByEpoch else 3)
    )
