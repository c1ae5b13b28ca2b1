"""Exact resume with data loaders."""

from __future__ import annotations

import random
from functools import partial

import numpy as np
import pytest
import torch
from learner_support import problem
from resume_support import EPOCHS, Resumed, assert_same, uninterrupted
from slow_values import others_slow
from torch import nn
from torch.utils.data import DataLoader, RandomSampler, TensorDataset

import dashpot as dp
from dashpot.errors import ArgumentError
from dashpot.training import Checkpoints, Engine, Learner
from dashpot.training.state.checkpoint_file import read


class Augmented(TensorDataset):
    """Data set that adds noise from the global generators of torch, numpy and Python."""

    def __getitem__(self, index):
        x, y = super().__getitem__(index)
        return x + 0.1 * torch.randn(4) + 0.1 * np.random.rand() + 0.1 * random.random(), y


def loader_learner(workers=0, own=None, **options):
    """Return a learner that trains and evaluates on shuffling DataLoaders of augmented examples."""
    given = problem(examples=14)
    data = Augmented(given.train.x, given.train.y)
    options = {"batch_size": 4, "num_workers": workers, **options}
    if workers:
        options["multiprocessing_context"] = "fork"
    draw = {} if own is None else {"generator": torch.Generator().manual_seed(own)}
    train = DataLoader(data, shuffle=True, **draw, **options)
    evaluation = DataLoader(data, shuffle=True, **options)
    shape = {"loss": given.loss, "metrics": given.metrics, "optimizer": dp.AdamW, "lr": 0.01}
    return Learner(given.model, train, evaluation, engine=Engine("cpu"), **shape)


@pytest.mark.diagonal
@pytest.mark.parametrize("own", [None, 3], ids=["global", "own generator"])
@pytest.mark.parametrize("stops", others_slow([(1,), (3,), (4,), (6,), (8,), (2, 3, 9, 11)], (4,), (6,)), ids=str)
def test_resume_is_exact_with_shuffling_and_augmentation(tmp_path, stops, own):
    make = partial(loader_learner, own=own)
    assert_same(uninterrupted(make), Resumed(make, tmp_path, stops).learner)


@pytest.mark.parametrize("own", [pytest.param(None, marks=pytest.mark.slow), 3], ids=["global", "own generator"])
def test_resume_is_exact_with_worker_processes(tmp_path, own):
    make = partial(loader_learner, workers=2, own=own)
    stops = [2, 4, 5] if own is None else [2]
    assert_same(uninterrupted(make, epochs=2), Resumed(make, tmp_path, stops, epochs=2).learner)


@pytest.mark.parametrize("every", [4, pytest.param(2, marks=pytest.mark.slow)])
def test_checkpoints_at_every_position_resume_exactly(tmp_path, every):
    """This includes checkpoints after an epoch, when the generator of the loader has advanced."""
    make = partial(loader_learner, own=3)
    expected = uninterrupted(make, lambda: [Checkpoints(tmp_path / "all", every_steps=1, keep=None)])
    paths = sorted((tmp_path / "all").iterdir())
    assert len(paths) == EPOCHS * (4 + 1)
    for path in paths[::every]:  # each position in an epoch of five checkpoints, if every second is used
        torch.manual_seed(99)
        resumed = make()
        resumed.fit(EPOCHS, resume=read(path))
        assert_same(expected, resumed)


def test_resume_is_exact_with_sampler_generator_and_replacement(tmp_path):
    def make():
        given = loader_learner()
        data = given.train.source.dataset
        sampler = RandomSampler(data, replacement=True, generator=torch.Generator().manual_seed(5), num_samples=40)
        loader = DataLoader(data, batch_size=4, sampler=sampler)
        return Learner(
            given.model, loader, loss=nn.functional.cross_entropy, optimizer=dp.AdamW, lr=0.01, engine=Engine("cpu")
        )

    assert_same(uninterrupted(make, epochs=2), Resumed(make, tmp_path, [3, 10, 16], epochs=2).learner)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_persistent_workers_cannot_be_resumed(tmp_path):
    made = loader_learner(workers=1, persistent_workers=True)
    with pytest.raises(ArgumentError, match=r"train cannot be resumed exactly: .*persistent_workers=True"):
        made.fit(1, callbacks=[Checkpoints(tmp_path)])


def persistent_loader(data):
    dataset = TensorDataset(data.x, data.y)
    return DataLoader(dataset, batch_size=4, num_workers=1, persistent_workers=True)


def test_persistent_workers_of_evaluation_cannot_be_resumed(tmp_path):
    data = problem()
    one = Learner(
        data.model,
        data.train,
        persistent_loader(data.evaluation),
        loss=data.loss,
        optimizer=dp.AdamW,
        engine=Engine("cpu"),
    )
    with pytest.raises(ArgumentError, match=r"evaluation cannot be resumed exactly: .*persistent_workers=True"):
        one.fit(1, callbacks=[Checkpoints(tmp_path)])
    assert list(tmp_path.iterdir()) == []
    one.fit(1, callbacks=[Checkpoints(tmp_path)], evaluate=False)  # accepted without evaluation
