"""Distributed checks of fits by steps: equality with one process, resume within an interval, and time limits."""

from __future__ import annotations

import copy
import itertools
import random
from functools import partial
from typing import Any
from unittest import mock

import numpy as np
import torch
import torch.distributed as dist
from distributed_loader_checks import RecordingDataset
from distributed_support import BATCH_SIZE, TOLERANCE, AccumulateBatches, assert_same, engine, problem
from torch.utils.data import DataLoader

import dashpot as dp
from dashpot.training import Callback, CancelFit, Learner
from dashpot.training.callbacks import time_limit

FIT: dict[str, Any] = {"steps": 5, "evaluate_every": 2}
"""Fit whose steps of two micro-batches end within passes of three batches."""


class Unsized:
    """Stream without a length."""

    def __init__(self, stream: Any) -> None:
        self.epoch = stream.epoch


class StopAfterStep(Callback):
    """Copy the state after a number of steps, and cancel the fit."""

    order = 1000

    def __init__(self, steps: int) -> None:
        self.steps, self.state = steps, None

    def after_batch(self, learner):
        if learner.training and learner.batch.stepped and learner.steps == self.steps:
            self.state = copy.deepcopy(learner.state_dict())
            self.state["callbacks"].pop("StopAfterStep", None)
            raise CancelFit


def _learner(strategy: str | None, source: str) -> Learner:
    made = problem(torch.float64)
    torch.manual_seed(5)
    random.seed(5)
    np.random.seed(5)
    loader = DataLoader(RecordingDataset(torch.float64), BATCH_SIZE, shuffle=True)
    return Learner(
        made.model,
        loader if source == "loader" else Unsized(made.train),
        made.evaluation,
        loss=made.loss,
        optimizer=partial(dp.AdamW, lr=0.05),
        metrics=made.metrics,
        engine=engine(strategy),
        callbacks=[AccumulateBatches(2)],
    )


def steps_equal_those_of_one_process(strategy: str, source: str) -> None:
    actual, expected = _learner(strategy, source), _learner(None, source)
    torch.manual_seed(6)
    actual.fit(**FIT)
    torch.manual_seed(6)
    expected.fit(**FIT)
    assert actual.steps == expected.steps == 5
    assert_same(actual, expected, TOLERANCE[torch.float64])


def fit_by_steps_resumes(strategy: str, source: str) -> None:
    uninterrupted, stop = _learner(strategy, source), StopAfterStep(3)
    uninterrupted.fit(**FIT)
    _learner(strategy, source).fit(callbacks=[stop], **FIT)
    resumed = _learner(strategy, source)
    torch.manual_seed(99)
    resumed.fit(resume=stop.state, **FIT)
    assert_same(resumed, uninterrupted, 0.0)


def time_limit_ends_all_ranks_after_the_same_step(strategy: str) -> None:
    """The limit applies to the time on rank 0; that on rank 1 exceeds the limit at once."""
    clock = itertools.count(0.0, 1.0 if dist.get_rank() == 0 else 1000.0)
    one = _learner(strategy, "unsized")
    with mock.patch.object(time_limit.time, "monotonic", side_effect=clock):
        one.fit(steps=40, evaluate_every=40, max_time=2.0)
    assert (one.steps, one.loop.cut_at) == (16, (0, 32))  # the clock is read every eighth step
    assert sorted(one.history[0]) == ["eval", "train"]
