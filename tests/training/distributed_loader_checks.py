"""Distributed checks of data loaders: sharding, and resume within an epoch."""

from __future__ import annotations

import random
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from distributed_support import (
    BATCH_SIZE,
    TOLERANCE,
    StopAt,
    assert_raises,
    assert_same,
    data,
    engine,
    network,
    problem,
    state_of_rank_zero,
)
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset
from torch.utils.data.distributed import DistributedSampler

import dashpot as dp
from dashpot.training import Learner


class RecordingDataset(Dataset):
    """Dataset that records the requested indices."""

    def __init__(self, dtype: torch.dtype, noise: bool = False) -> None:
        self.x, self.y = data(dtype)
        self.noise, self.indices = noise, []

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int):
        self.indices.append(index)
        shift = 0.1 * (torch.rand(()) + random.random() + np.random.rand()) if self.noise else 0.0
        return self.x[index] + shift, self.y[index]


def loader_learner(strategy: str | None, workers: int, noise: bool = False) -> Learner:
    """Return a float64 learner on a shuffled `DataLoader`."""
    made, examples = problem(torch.float64), RecordingDataset(torch.float64, noise)
    torch.manual_seed(5)
    random.seed(5)
    np.random.seed(5)
    train = DataLoader(examples, BATCH_SIZE, shuffle=True, num_workers=workers)
    return Learner(
        made.model,
        train,
        DataLoader(examples, 4),
        loss=made.loss,
        optimizer=partial(dp.AdamW, lr=0.05),
        metrics=made.metrics,
        engine=engine(strategy),
    )


def loader_is_sharded(strategy: str, workers: int) -> None:
    """The batches equal those of a single process, and every example is read exactly once, by one of the ranks."""
    actual = loader_learner(strategy, workers)
    actual.fit(2)
    expected = loader_learner(None, workers)
    expected.fit(2)
    assert_same(actual, expected, TOLERANCE[torch.float64])
    assert actual.evaluation is not None
    actual.train.source.dataset.indices.clear()
    labels = [batch.y.tolist() for batch in actual.evaluation.batches(0) if batch.size]
    gathered = sorted(label for part in actual.engine.all_gather(labels) for batch in part for label in batch)
    assert gathered == sorted(data(torch.float64)[1].tolist())
    if workers == 0:
        assert len(actual.train.source.dataset.indices) == (6 if dist.get_rank() == 0 else 5)


def loader_resumes(strategy: str, workers: int) -> None:
    uninterrupted, stop = loader_learner(strategy, workers, noise=True), StopAt(5)
    uninterrupted.fit(3)
    loader_learner(strategy, workers, noise=True).fit(3, callbacks=[stop])
    resumed = loader_learner(strategy, workers, noise=True)
    torch.manual_seed(99)
    resumed.fit(3, resume=stop.state)
    assert_same(resumed, uninterrupted, 0.0)


def loader_resumes_with_other_world_size(saved_by: str | None, resumed_by: str | None) -> None:
    """A fit saved mid-epoch by one process resumes with two in the same data order, and vice versa."""
    stop, expected = StopAt(4), loader_learner(None, 0)
    expected.fit(3)
    loader_learner(saved_by, 0).fit(3, callbacks=[stop])
    resumed = loader_learner(resumed_by, 0)
    torch.manual_seed(99)
    resumed.fit(3, resume=state_of_rank_zero(stop.state))
    assert_same(resumed, expected, TOLERANCE[torch.float64])


def unshardable_sources_raise() -> None:
    class Stream(IterableDataset):
        def __len__(self) -> int:
            return 4

        def __iter__(self):
            return iter([])

    class Custom:
        def __len__(self) -> int:
            return 1

        def __iter__(self):
            return iter([])

    examples, made = RecordingDataset(torch.float32), problem()
    for source, text in (
        (DataLoader(Stream(), 2), "got a DataLoader of an IterableDataset"),
        (DataLoader(examples, batch_size=None), "got a DataLoader with batch_size=None"),
        (DataLoader(examples, 2, sampler=DistributedSampler(examples)), "with a DistributedSampler; remove it"),
        (Custom(), "got Custom, which cannot guarantee"),
    ):
        make = partial(Learner, made.model, source, loss=made.loss, optimizer=dp.AdamW, engine=engine("ddp"))
        assert_raises(dp.ArgumentError, text, make)


def list_of_batches_is_sharded() -> None:
    batches = [data(torch.float32)]
    options: dict[str, Any] = {"loss": nn.functional.cross_entropy, "optimizer": dp.AdamW}
    actual, expected = (
        Learner(network(torch.float32), batches, engine=engine(strategy), **options) for strategy in ("ddp", None)
    )
    actual.fit(2)
    expected.fit(2)
    assert_same(actual, expected, TOLERANCE[torch.float32])
