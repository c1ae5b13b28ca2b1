"""Learning rate in the summary of an epoch."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from learner_support import At, StopAt, call_if, learner, on_batch, raise_if

import dashpot as dp
from dashpot.schedules import Cosine
from dashpot.training import Callback, CancelBatch, CancelEpoch, NonFinite, Recorder
from dashpot.training.callbacks.epoch_summary import EpochCallback


def cancel_at(kind, *batches):
    return At("before_batch", raise_if(kind, on_batch(*batches)), -1)


def set_gradient_to_inf(learner):
    next(learner.model.parameters()).grad.fill_(torch.inf)


class Summaries(EpochCallback):
    """Collect the epoch summaries."""

    def before_fit(self, learner):
        super().before_fit(learner)
        self.summaries = []

    def on_epoch_summary(self, learner, summary):
        self.summaries.append(summary)


def scheduled(params, lr):
    return dp.AdamW(params, lr=lr, schedule=Cosine(12))


@pytest.mark.filterwarnings("ignore:.*non-finite:RuntimeWarning")
@pytest.mark.parametrize(
    "callbacks",
    [
        [At("after_backward", call_if(set_gradient_to_inf, on_batch(2)), -1), NonFinite("skip")],
        [cancel_at(CancelBatch, 2)],
        [cancel_at(CancelEpoch, 2)],
    ],
    ids=["skipped", "batch cancelled", "epoch cancelled"],
)
def test_summary_has_lr_of_last_step_taken(callbacks):
    summaries, recorder = Summaries(), Recorder("lr")
    one = learner(scheduled)
    one.fit(2, callbacks=[*callbacks, summaries, recorder])
    assert one.steps == 4  # two of three batches in each of two epochs
    assert [summary.lr for summary in summaries.summaries] == recorder.values["lr"][1::2]


def test_summary_counts_step_of_batch_cancelled_after_it():
    class CancelAfterStep(Callback):
        order = 50

        def step(self, learner, proceed):
            proceed()
            raise CancelBatch

    summaries = Summaries()
    learner().fit(1, callbacks=[CancelAfterStep(), summaries])
    assert [summary.lr for summary in summaries.summaries] == [0.01]


def test_summary_of_epoch_without_step_has_no_lr():
    summaries = Summaries()
    learner().fit(2, callbacks=[cancel_at(CancelBatch, 0, 1, 2), summaries])
    assert [summary.lr for summary in summaries.summaries] == [None, None]


def test_summary_lr_is_restored_on_resume():
    uninterrupted, stop, resumed = Summaries(), StopAt(2), Summaries()
    learner(scheduled).fit(1, callbacks=[cancel_at(CancelBatch, 2), uninterrupted])
    learner(scheduled).fit(1, callbacks=[cancel_at(CancelBatch, 2), Summaries(), stop])
    assert stop.state is not None
    again = cancel_at(CancelBatch, 2)
    learner(scheduled).fit(1, callbacks=[again, resumed], resume=stop.state)
    assert uninterrupted.summaries[0].lr is not None
    assert resumed.summaries[0].lr == uninterrupted.summaries[0].lr


@pytest.mark.parametrize("schedule", [None, Cosine(12)], ids=["constant", "scheduled"])
def test_tensor_lr_is_read_at_end_of_epoch(schedule):
    def make(params, lr):
        return dp.AdamW(params, lr=cast(Any, torch.tensor(lr)), schedule=schedule)

    summaries, recorder = Summaries(), Recorder("lr")
    learner(make).fit(1, callbacks=[summaries, recorder])
    assert [summary.lr for summary in summaries.summaries] == recorder.values["lr"][-1:]


@pytest.mark.parametrize("schedule", [None, Cosine(12)], ids=["constant", "scheduled"])
def test_step_does_not_read_lr_from_device(schedule):
    opt = dp.AdamW([torch.zeros(1, requires_grad=True)], lr=0.1, schedule=schedule)
    opt.param_groups[0]["lr"] = torch.zeros((), device="meta")  # reading the value of a meta tensor fails
    parts = {"opt": opt, "batch": SimpleNamespace(stepped=True), "loop": SimpleNamespace(part=None)}
    summaries, one = Summaries(), cast(Any, SimpleNamespace(**parts))
    summaries.before_fit(one)
    summaries.step(one, lambda: None)


def test_summary_ignores_lr_changed_in_place_after_step():
    class HalveLr(Callback):
        def after_step(self, learner):
            learner.opt.param_groups[0]["lr"].mul_(0.5)

    summaries = Summaries()
    learner(lambda params, lr: torch.optim.SGD(params, lr=torch.tensor(lr)), lr=0.5).fit(
        1, callbacks=[HalveLr(), summaries]
    )
    assert [summary.lr for summary in summaries.summaries] == [0.125]
