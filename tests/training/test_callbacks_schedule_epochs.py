"""Schedules per epoch in interrupted, failed and cancelled epochs, and several schedules in one fit."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from learner_support import learner, same, weights
from torch.optim import lr_scheduler

from dashpot.errors import ArgumentError
from dashpot.schedules import Cosine, Exponential, OneCycleMomentum, Plateau
from dashpot.training import Callback, CancelEpoch, CancelFit, Engine, Learner
from dashpot.training.callbacks.checkpoints import Checkpoints, read_newest
from dashpot.training.callbacks.schedule import Schedule, one_cycle

SGD: Any = torch.optim.SGD
HALVING = Exponential(0.5)


class RecordRates(Callback):
    """Record the learning rate of the first step in every epoch."""

    def __init__(self):
        self.rates = []

    def before_batch(self, learner):
        if learner.training and learner.batch.index == 0:
            self.rates.append(learner.opt.param_groups[0]["lr"])


class RaiseAfterEvaluation(Callback):
    """Raise an error at the end of the evaluation of one epoch."""

    def __init__(self, error: type[BaseException], epoch: int, order: int = 45):
        self.error, self.epoch, self.order = error, epoch, order  # pyright: ignore[reportAttributeAccessIssue]

    def after_epoch(self, learner):
        if not learner.training and learner.epoch == self.epoch:
            raise self.error


def fit(folder, *more, schedule: Any = HALVING, resume=None):
    """Fit for four epochs with a per-epoch schedule, and return the learner and the rate of each epoch."""
    fitted, record = learner(SGD, lr=0.1), RecordRates()
    callbacks = [Schedule(schedule, per="epoch"), Checkpoints(folder), record, *more]
    torch.manual_seed(5)
    fitted.fit(4, callbacks=callbacks, resume=resume)
    return fitted, record.rates


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
def test_epoch_whose_end_the_schedule_missed_is_repeated(tmp_path, error):
    uninterrupted, rates = fit(tmp_path / "uninterrupted")
    assert rates == [0.1, 0.05, 0.025, 0.0125]
    with pytest.raises(error):
        fit(tmp_path / "failed", RaiseAfterEvaluation(error, 2))
    state = read_newest(tmp_path / "failed")
    assert state["progress"]["position"] == [2, 0]
    resumed, rates = fit(tmp_path / "failed", resume=state)
    assert rates == [0.025, 0.0125]
    assert same(weights(uninterrupted), weights(resumed))


@pytest.mark.parametrize("schedule", [Exponential(0.5), Plateau(0.5, patience=0, threshold=10)])
def test_cancelled_fit_counts_the_epoch_for_the_schedule(tmp_path, schedule):
    """The epoch is also counted if the callback that cancels the fit precedes the schedule."""
    uninterrupted, rates = fit(tmp_path / "uninterrupted", schedule=schedule)
    assert len(set(rates)) > 2
    fit(tmp_path / "cancelled", RaiseAfterEvaluation(CancelFit, 2), schedule=schedule)
    state = read_newest(tmp_path / "cancelled")
    assert state["progress"]["position"] == [3, 0]
    resumed, [rate] = fit(tmp_path / "cancelled", schedule=schedule, resume=state)
    assert rate == rates[3]
    assert same(weights(uninterrupted), weights(resumed))


def test_error_after_the_checkpoint_loses_no_epoch(tmp_path):
    with pytest.raises(ZeroDivisionError):
        fit(tmp_path, RaiseAfterEvaluation(ZeroDivisionError, 2, order=91))
    assert read_newest(tmp_path)["progress"]["position"] == [3, 0]


@pytest.mark.parametrize(("cancel", "position"), [(CancelFit, [2, 0]), (CancelEpoch, [4, 0])])
def test_cancelled_epoch_is_saved_inside_an_except_block(tmp_path, cancel, position):
    try:
        {}[0]
    except KeyError:
        fit(tmp_path, RaiseAfterEvaluation(cancel, 1))
    assert read_newest(tmp_path)["progress"]["position"] == position


@pytest.mark.parametrize("phase", ["train", "eval"])
@pytest.mark.parametrize("evaluate", [True, False])
def test_cancelled_epoch_advances_the_schedule_once(phase, evaluate):
    class CancelBatchLoop(Callback):
        def before_batch(self, learner):
            index = 1 if phase == "train" else 0
            if learner.loop.phase == phase and learner.epoch == 1 and learner.batch.index == index:
                raise CancelEpoch

    record = RecordRates()
    callbacks = [Schedule(Exponential(0.5), per="epoch"), CancelBatchLoop(), record]
    learner(SGD, lr=0.1).fit(4, callbacks=callbacks, evaluate=evaluate)
    assert record.rates == [0.1, 0.05, 0.025, 0.0125]


def test_plateau_ignores_an_epoch_without_evaluation():
    class CancelEvaluation(Callback):
        def before_epoch(self, learner):
            if not learner.training and learner.epoch == 1:
                raise CancelEpoch

    class RecordMeasured(Callback):
        def after_fit(self, learner):
            measured.extend(plateau.state_dict()["measured"])

    plateau, measured = Schedule(Plateau(patience=9)), []
    learner(SGD, lr=0.1).fit(3, callbacks=[plateau, CancelEvaluation(), RecordMeasured()])
    assert len(measured) == 2


# ---- two schedules --------------------------------------------------------------------------------------------------


def adamw_learner(batches: int) -> tuple[Learner, torch.optim.Optimizer]:
    model = torch.nn.Linear(4, 3)
    opt = torch.optim.AdamW(model.parameters(), lr=0.1)
    data = [(torch.ones(2, 4), torch.zeros(2, dtype=torch.long))] * batches
    return Learner(model, data, loss=torch.nn.functional.cross_entropy, optimizer=opt, engine=Engine("cpu")), opt


@pytest.mark.parametrize(
    ("one", "other", "name"),
    [
        (one_cycle, lambda: Schedule(partial(lr_scheduler.StepLR, step_size=1)), "lr"),
        (lambda: Schedule(Plateau()), lambda: Schedule(Cosine), "lr"),
        (lambda: Schedule({"momentum": Exponential(0.9)}), lambda: Schedule({"betas[0]": Exponential(0.5)}), "betas"),
        (
            lambda: Schedule(partial(lr_scheduler.OneCycleLR, max_lr=0.1)),
            lambda: Schedule({"momentum": Exponential(0.9)}),
            "betas",
        ),
    ],
)
def test_two_schedules_of_a_hyperparameter_raise_and_leave_it_unchanged(one, other, name):
    made, opt = adamw_learner(1)
    before = {key: value for key, value in opt.param_groups[0].items() if key != "params"}
    with pytest.raises(ArgumentError, match=rf"Schedule: {name}\S* has two schedules"):
        made.fit(1, callbacks=[one(), other()])
    assert {key: value for key, value in opt.param_groups[0].items() if key != "params"} == before


def test_schedules_of_different_hyperparameters_combine_and_are_both_restored():
    made, opt = adamw_learner(4)
    rate = Schedule(partial(lr_scheduler.LinearLR, start_factor=0.25, total_iters=2))
    for _ in range(2):  # the second fit reuses the Schedule
        made.fit(1, callbacks=[rate, Schedule(lambda n: {"momentum": OneCycleMomentum(n)})])
        assert (opt.param_groups[0]["lr"], opt.param_groups[0]["betas"]) == (0.1, (0.9, 0.999))
