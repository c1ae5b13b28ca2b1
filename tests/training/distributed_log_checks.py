"""Distributed checks of logged values and loss curves, and of checkpoints on a signal."""

from __future__ import annotations

import io
import os
import signal
import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from distributed_support import TOLERANCE, StopAt, assert_equal_on_all_ranks, learner, state_of_rank_zero

import dashpot as dp
from dashpot.training import Callback, Checkpoints, Progress, SaveOnSignal


class LogValues(Callback):
    """Log sums over the examples of each batch, a name that only one rank logs, and a value of the whole phase."""

    def after_loss(self, learner: Any) -> None:
        if learner.batch.size:
            learner.log("x", learner.batch.x.double().sum() / learner.batch.size)

    def after_batch(self, learner: Any) -> None:
        if learner.engine.global_rank == learner.engine.world_size - 1 and learner.batch.index == 0:
            learner.log("last rank", 2.5)

    def after_epoch(self, learner: Any) -> None:
        learner.log("rank", learner.engine.global_rank)


def logged_values_are_means_over_all_examples(strategy: str) -> None:
    """The last batch has a single example, so that the slice of rank 1 is empty."""
    actual, expected = (learner(dp.AdamW, where) for where in (strategy, None))
    for one in (actual, expected):
        one.fit(2, callbacks=[LogValues()])
    assert_equal_on_all_ranks(actual)
    for means, wanted in zip(actual.history, expected.history, strict=True):
        for phase in ("train", "eval"):
            torch.testing.assert_close(means[phase]["x"], wanted[phase]["x"], rtol=1e-12, atol=1e-12)
            assert (means[phase]["last rank"], means[phase]["rank"]) == (2.5, 0.5)


def logged_values_resume(strategy: str, resumed_by: str | None) -> None:
    uninterrupted, stop = learner(dp.AdamW, strategy), StopAt(4)
    uninterrupted.fit(2, callbacks=[LogValues()])
    learner(dp.AdamW, strategy).fit(2, callbacks=[LogValues(), stop])
    resumed = learner(dp.AdamW, resumed_by, seed=4)
    resumed.fit(2, callbacks=[LogValues()], resume=state_of_rank_zero(stop.state))
    tolerance = 0.0 if resumed_by == strategy else TOLERANCE[torch.float64]
    for means, wanted in zip(resumed.history, uninterrupted.history, strict=True):
        torch.testing.assert_close(means["train"]["x"], wanted["train"]["x"], rtol=tolerance, atol=tolerance)
    dist.barrier()


def loss_curve_is_of_all_examples(strategy: str) -> None:
    curves = []
    for where in (strategy, None):
        progress = Progress(io.StringIO(), plot=True)
        learner(dp.AdamW, where, dtype=torch.float64).fit(2, callbacks=[progress])
        assert progress._curve is not None
        curves.append([loss for _, loss in progress._curve.train + progress._curve.evaluation])
    assert len(curves[0]) == 6 + 2
    torch.testing.assert_close(*curves, rtol=1e-12, atol=1e-12)


class SendOnRankOne(Callback):
    """Send SIGUSR1 to rank 1 at the second step."""

    def after_step(self, learner: Any) -> None:
        if learner.steps == 2 and dist.get_rank() == 1:
            os.kill(os.getpid(), signal.SIGUSR1)


def signal_on_one_rank_saves_on_all(strategy: str) -> None:
    """Ranks communicate at every 8th step and at the end of an epoch, here after the third step."""
    actual, expected = learner(dp.AdamW, strategy), learner(dp.AdamW, strategy)
    expected.fit(2)
    folder = Path(actual.engine.broadcast(tempfile.mkdtemp()))
    checkpoints = Checkpoints(folder, every_epochs=None)
    actual.fit(2, callbacks=[checkpoints, SaveOnSignal(checkpoints), SendOnRankOne()])
    assert [path.name[5:13] for path in sorted(folder.glob("*.ckpt"))] == ["00000003", "00000006"]
    assert actual.history == expected.history
    dist.barrier()
