"""Distributed checks of reports and error messages."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import torch
import torch.distributed as dist
from distributed_support import (
    AccumulateBatches,
    StopAt,
    assert_equal_on_all_ranks,
    assert_raises,
    data,
    engine,
    learner,
    network,
    problem,
    state_of_rank_zero,
    weights,
)
from torch import nn

import dashpot as dp
from dashpot.training import Learner, NonFinite


class LogOnRank(nn.Module):
    """Logarithm of negative numbers on one rank, identity on the others."""

    def __init__(self, rank: int) -> None:
        super().__init__()
        self.rank = rank

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (-x.abs() - 1).log() if dist.get_rank() == self.rank else x


def report(watch: NonFinite, strategy: str, custom: Any, **options: Any) -> str:
    actual = Learner.of(custom, dp.SGD, callbacks=[watch], engine=engine(strategy), **options)
    try:
        actual.fit(1)
    except dp.NonFiniteError as error:
        return str(error)
    raise AssertionError("no report")


def nonfinite_values_are_diagnosed(strategy: str) -> None:
    """Every rank raises the same report, even if only rank 1 has non-finite values."""
    custom = problem(noisy=True, examples=10)
    model: Any = custom.model
    sums = {name: p.double().sum().item() for name, p in model.named_parameters()}
    bad = dataclasses.replace(custom, model=nn.Sequential(*model, LogOnRank(1)))
    found = report(NonFinite("raise"), strategy, bad)
    assert found.startswith("Step 1 (epoch 1, batch 1) has non-finite gradients: nan in 0.weight (Linear)"), found
    assert "finite inputs and nan in its output is 5 (LogOnRank), in batch 1. Sums" in found, found
    shown = [float(part.split(" ")[1]) for part in found.partition("parameters: ")[2].partition(";")[0].split(", ")]
    # four significant digits
    torch.testing.assert_close(shown, list(sums.values()), rtol=1e-3, atol=1e-5)


def nonfinite_evaluation_is_diagnosed(strategy: str) -> None:
    """The last example of the second batch belongs to rank 1."""
    custom = problem()
    evaluation: Any = custom.evaluation
    x = evaluation.x.clone()
    x[7, 2] = math.nan
    custom = dataclasses.replace(custom, evaluation=dataclasses.replace(evaluation, x=x))
    found = report(NonFinite("raise"), strategy, custom)
    assert found.startswith("The evaluation of epoch 1 (batch 2) has non-finite losses. The loss is nan. In batch 2, x")


def changed_data_are_refused_on_all_ranks(kind: str) -> None:
    """The data of rank 1 have changed, in a list that all ranks read, or in its part of a `DataLoader`."""
    x, y = data(torch.float32)
    changed = x + 1 if dist.get_rank() == 1 else x
    states = []
    for values in (x, changed):
        examples = torch.utils.data.TensorDataset(values, y)
        batches = torch.utils.data.DataLoader(examples, batch_size=4)
        source: Any = list(batches) if kind == "list" else batches
        subject = Learner(
            network(torch.float32),
            source,
            loss=nn.functional.cross_entropy,
            optimizer=dp.SGD,
            lr=0.1,
            engine=engine("ddp"),
        )
        if not states:
            stop = StopAt(4)
            subject.fit(2, callbacks=[stop])
            states.append(state_of_rank_zero(stop.state))
            subject.fit(2, resume=states[0])
        else:
            text = "train must repeat the batches before the checkpoint, but batch 1 of epoch 2 differs"
            assert_raises(dp.RunError, text, lambda fit=subject.fit: fit(2, resume=states[0]))


class Branches(nn.Module):
    """Model with a branch that the loss does not depend on."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.unused = nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.unused(x)
        return self.used(x)


def unused_parameters_are_named(accumulate: int) -> None:
    custom = dataclasses.replace(problem(), model=Branches())
    subject = learner(dp.SGD, "ddp", accumulate, custom=custom)
    text = "must be used in the loss, but some were not: unused.weight, unused.bias; pass Engine(find_unused_parameters"
    assert_raises(dp.ArgumentError, text, lambda: subject.fit(1))
    assert subject.steps == 0


def unused_parameters_are_found(accumulate: int) -> None:
    """With `find_unused_parameters=True`, the results equal those of one process."""
    learners = []
    for where in ("ddp", None):
        with torch.random.fork_rng():
            torch.manual_seed(1)
            custom = dataclasses.replace(problem(torch.float64), model=Branches().double())
        made = engine(where, find_unused_parameters=True)
        callbacks = [AccumulateBatches(accumulate)]
        learners.append(Learner.of(custom, dp.AdamW, lr=0.05, callbacks=callbacks, engine=made))
        learners[-1].fit(2)
    assert_equal_on_all_ranks(learners[0])
    torch.testing.assert_close(weights(learners[0]), weights(learners[1]), rtol=1e-12, atol=1e-12)


def batch_norm_of_one_example_per_rank() -> None:
    custom = problem(noisy=True, examples=7)
    subject = Learner.of(custom, dp.SGD, lr=0.1, engine=engine("ddp"))
    assert_raises(dp.ArgumentError, "batch norm in training mode needs several examples", lambda: subject.fit(1))
