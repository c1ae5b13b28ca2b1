"""State of a fit: its contents, and the events in which it can be taken."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
from fit_state_support import states_taken
from learner_support import At, StopAt, X, learner, problem
from resume_support import EPOCHS, assert_equal, assert_same, left_at

import dashpot as dp
from dashpot.errors import ArgumentError, RunError
from dashpot.schedules import Exponential
from dashpot.training import EMA, SWA, Accumulate, Callback, Checkpoints, EarlyStopping, Engine, Learner, Schedule


@pytest.mark.parametrize("make", [dp.AdamW, torch.optim.AdamW], ids=["ours", "torch"])
def test_state_is_not_modified_by_resumed_fits(make):
    state, _ = left_at(4, partial(learner, make))
    before = copy.deepcopy(state)
    first, second = learner(make), learner(make)
    first.fit(EPOCHS, resume=state)
    assert_equal(state, before)
    second.fit(EPOCHS, resume=state)
    assert_same(first, second)


def test_state_is_independent_of_the_running_fit():
    class Keeps(StopAt):
        def after_batch(self, learner):
            if learner.training and learner.loop.position == (0, 2):
                self.state = learner.state_dict()
                self.copied = copy.deepcopy(self.state)

    keeps = Keeps(2)
    learner(partial(torch.optim.NAdam), lr=torch.tensor(0.01)).fit(1, callbacks=[keeps])
    assert_equal(keeps.state, keeps.copied)


def test_resume_of_finished_fit_restores_history(tmp_path):
    made = learner()
    made.fit(2, callbacks=[Checkpoints(tmp_path)])
    state, again, seen = made.state_dict(), learner(), []

    class RecordEvents(Callback):
        def before_batch(self, learner):
            seen.append(learner.batch.index)

        def after_fit(self, learner):
            seen.append("after_fit")

    again.fit(2, resume=state, callbacks=[RecordEvents()])
    assert seen == ["after_fit"]
    assert_same(made, again)
    again.fit(3, resume=state)
    assert len(again.history) == 3
    with pytest.raises(RunError, match="2 finished epochs, got 1"):
        again.fit(1, resume=state)


def test_rejected_fit_keeps_state_of_previous_fit():
    given = problem()
    opt = dp.AdamW(given.model.parameters(), lr=0.01)
    one = Learner.of(given, opt, engine=Engine("cpu"))
    one.fit(2)
    state = one.state_dict()
    with pytest.raises(ArgumentError, match="lr must be None if optimizer is an instance"):
        one.fit(3, lr=0.5)
    assert one.state_dict()["progress"] == state["progress"]


# ---- when a state can be taken --------------------------------------------------------------------------------------


def test_state_before_first_fit_raises():
    with pytest.raises(RunError, match="during or after a fit"):
        learner().state_dict()


def test_state_within_step_or_evaluation_raises():
    class TakeEarly(Callback):
        def after_batch(self, learner):
            if learner.training and not learner.batch.is_last_microbatch:
                with pytest.raises(RunError, match="got 1 accumulated micro-batches"):
                    learner.state_dict()
            if not learner.training:
                with pytest.raises(RunError, match="got the evaluation of epoch 1"):
                    learner.state_dict()

    learner().fit(1, callbacks=[Accumulate(2), TakeEarly()])


def test_state_with_pending_gradients_raises():
    class TakeState(Callback):
        order = -20

        def before_fit(self, learner):
            learner.loop.accumulate = 2

        def after_batch(self, learner):
            if learner.training:
                learner.state_dict()

    with pytest.raises(RunError, match="got 1 accumulated micro-batches"):
        learner(callbacks=[TakeState()]).fit(1)
    with pytest.raises(RunError, match="accumulated micro-batches"):
        learner(
            callbacks=[type("TakeEarly", (Callback,), {"after_step": lambda self, learner: learner.state_dict()})()]
        ).fit(1)


@pytest.mark.parametrize(
    ("order", "training", "callbacks", "message"),
    [
        (0, False, [EMA(0.9)], "EMA has put its averages into the model"),
        (1000, True, [SWA(0)], "got the end of the training phase of epoch 1"),
        (0, False, [Schedule(Exponential(0.5), per="epoch")], "Schedule has not been notified of the end of the epoch"),
    ],
)
def test_state_during_after_epoch_raises_if_callbacks_are_pending(order, training, callbacks, message):
    _, takes = states_taken(order, training)
    with pytest.raises(RunError, match=message):
        learner(callbacks=[*callbacks, takes]).fit(2)


def test_state_in_after_epoch_allows_pending_stateless_callbacks():
    found, takes = states_taken(0, training=False)
    learner(callbacks=[takes, At("after_epoch", lambda _: None, order=5)]).fit(1)
    assert len(found) == 1


@pytest.mark.parametrize("more", [[], [EMA(0.9, keep=False)]])
def test_state_with_restored_best_weights_raises(more):
    one = learner(callbacks=[EarlyStopping("accuracy", mode="max", restore_best=True), *more])
    one.fit(2)
    with pytest.raises(RunError, match=r"EarlyStopping has put the weights of epoch \d into the model"):
        one.state_dict()


def test_state_with_averaged_weights_raises():
    one = learner(callbacks=[EMA(0.9)])
    one.fit(1)
    with pytest.raises(RunError, match="EMA has put its averages into the model"):
        one.state_dict()
    one.fit(1, callbacks=[stop := StopAt(2)])  # a cancelled fit leaves the optimizer's weights
    assert stop.state is not None
    one.state_dict()
    plain = learner(callbacks=[EMA(0.9, keep=False)])
    plain.fit(1)
    plain.state_dict()


@pytest.mark.parametrize("state", ["run/checkpoints", {"weight": X}], ids=["path", "weights"])
def test_resume_from_other_objects_raises(state):
    with pytest.raises(RunError, match=r"resume must be the result of learner.state_dict\(\)"):
        learner().fit(1, resume=state)
