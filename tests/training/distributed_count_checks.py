"""Distributed checks of numbers of examples, of losses with counts, and of tasks of many forms."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from distributed_support import (
    TOLERANCE,
    StopAt,
    assert_equal_on_all_ranks,
    assert_raises,
    assert_same,
    engine,
    history_values,
    own_group,
    state_of_rank_zero,
    weights,
)
from task_table import TABLE
from torch import nn
from torch.utils.data import DataLoader
from weighted_support import LOSSES, data, learner, model

import dashpot as dp
from dashpot.training import Accumulate, Learner, Recorder

FAST_LOSSES = (
    "class weights-ddp-8-SGD",
    "class weights-ddp-2-ESGD",
    "class weights-fsdp-2-SGD",
    "sum and count-ddp-2-AdamW",
)


def task_of_the_table(name: str, strategy: str, batch_size: int) -> None:
    """Two processes give the weights and means of one process on the whole batch of a step."""
    actual = TABLE[name].learner(batch_size, engine(strategy))
    expected = TABLE[name].learner(engine=engine(None))
    actual.fit(2)
    expected.fit(2)
    assert actual.steps == expected.steps == 6
    assert_equal_on_all_ranks(actual)
    limits: Any = {"rtol": TOLERANCE[torch.float32], "atol": TOLERANCE[torch.float32]}
    torch.testing.assert_close(weights(actual), weights(expected), **limits)
    torch.testing.assert_close(history_values(actual.history), history_values(expected.history), **limits)


def task_resumes(name: str, strategy: str) -> None:
    stop, uninterrupted = StopAt(4), TABLE[name].learner(engine=engine(strategy))
    uninterrupted.fit(2)
    TABLE[name].learner(engine=engine(strategy), callbacks=[stop]).fit(2)
    resumed = TABLE[name].learner(engine=engine(strategy))
    resumed.fit(2, resume=state_of_rank_zero(stop.state))
    assert_same(resumed, uninterrupted, 0.0)


def loss_with_counts(loss: str, strategy: str, batch_size: int, optimizer: Any, tolerance: float) -> None:
    """Weighted by examples, the loss with class weights was 1.7516 with two processes and 1.6872 with one."""
    several, one = Recorder("grad_norm"), Recorder("grad_norm")
    accumulate, group = 8 // batch_size, {}
    if optimizer is dp.ESGD:
        optimizer = partial(dp.ESGD, update_d_every=2, d_warmup=1, eps=0.1, relative_step=1e-3)
        group = {"process_group": own_group(), "probe": "differences" if strategy == "fsdp" else "auto"}
    actual = learner(optimizer, loss, batch_size, accumulate, engine=engine(strategy), callbacks=[several])
    expected = learner(partial(optimizer, **group), loss, engine=engine(None), callbacks=[one])
    actual.fit(3)
    expected.fit(3)
    assert_same(actual, expected, tolerance)
    for name in ("loss", "grad_norm"):
        torch.testing.assert_close(several.values[name], one.values[name], rtol=tolerance, atol=tolerance)


def size_function_with_loader(strategy: str) -> None:
    """The size of the whole batch, here the sum of the weights x[:, 0], is known only after a reduction."""
    x, y = data(torch.float64)
    x[:, 0] = torch.arange(len(x)) % 3 + 1.0

    def size(x: torch.Tensor, y: torch.Tensor) -> int:
        return int(x[:, 0].sum())

    def loss(output: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return (nn.functional.cross_entropy(output, y[:, :1].expand(-1, 5), reduction="none").mean(1) * share[0]).sum()

    class Weighted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = model(torch.float64)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            share[:] = [x[:, 0] / x[:, 0].sum()]
            return self.inner(x)

    share: list[Any] = [None]
    learners = []
    for where, batch_size in ((strategy, 8), (strategy, 4), (None, 8)):
        rows: Any = list(zip(x, y, strict=True))
        options = {"loss": loss, "size": size, "optimizer": torch.optim.SGD, "lr": 0.1, "engine": engine(where)}
        one = Learner(Weighted(), DataLoader(rows, batch_size), DataLoader(rows, 5), **options)
        one.fit(2, callbacks=[Accumulate(8 // batch_size)])
        learners.append(one)
    for actual in learners[:2]:
        assert_same(actual, learners[2], TOLERANCE[torch.float64])


def unsliceable_batches_raise() -> None:
    """A list of two tensors of two rows may be two inputs or two examples; objects are not sliced."""
    z = torch.zeros
    packed = nn.utils.rnn.pack_sequence([z(3), z(2)])
    for x, text in (
        ([z(2, 3), z(2, 3)], "yields a list of 2 items with 2 rows each, which may be examples or columns"),
        (
            packed,
            "yields PackedSequence, which cannot be sliced into examples; with several processes, use a map-style",
        ),
    ):
        one = Learner(
            nn.Linear(3, 2),
            [(x, torch.tensor([0, 1]))],
            loss=nn.functional.cross_entropy,
            optimizer=dp.SGD,
            engine=engine("ddp"),
        )
        assert_raises(dp.ArgumentError, text, partial(one.fit, 1))


def add_checks(add: Any) -> None:
    """Add the checks of this module to the table of checks."""
    for name, row in TABLE.items():
        for strategy in ("ddp", "fsdp") if row.shards else ():
            for batch_size in (8, 4):
                fast = {"images": ("ddp", 4), "tokens": ("fsdp", 4)}.get(name, ("ddp", 8))
                add((strategy, batch_size) == fast, task_of_the_table, name, strategy, batch_size)
            add(strategy == "ddp" and name == "ragged", task_resumes, name, strategy)
    for loss in LOSSES:
        for strategy in ("ddp", "fsdp"):
            for batch_size in (8, 2):
                for optimizer, tolerance in ((torch.optim.SGD, 1e-12), (dp.AdamW, 1e-12), (dp.ESGD, 1e-9)):
                    title = f"{loss}-{strategy}-{batch_size}-{optimizer.__name__}"
                    add(
                        title in FAST_LOSSES,
                        loss_with_counts,
                        loss,
                        strategy,
                        batch_size,
                        optimizer,
                        tolerance,
                        name=title,
                    )
    add(True, size_function_with_loader, "ddp")
    add(False, size_function_with_loader, "fsdp")
    add(True, unsliceable_batches_raise)
