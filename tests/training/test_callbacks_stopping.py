"""Early stopping: improvements, completion of the last epoch, resume and best weights."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from learner_support import StopAt, learner, same, weights

from dashpot.constraints import NONNEGATIVE, Interval
from dashpot.errors import ArgumentError
from dashpot.training import Callback, CancelFit
from dashpot.training.callbacks.average import EMA
from dashpot.training.callbacks.early_stopping import EarlyStopping

NAN, INF = math.nan, math.inf


class SetMetric(Callback):
    """Replace a metric in the history."""

    order = 50

    def __init__(self, *values, phase="eval", metric="loss"):
        self.values, self.phase, self.metric = values, phase, metric

    def after_epoch(self, learner):
        if learner.loop.phase == self.phase:
            learner.history[learner.epoch][self.phase][self.metric] = self.values[learner.epoch]


def fit_with_metric(*values, **options):
    """Fit with the given metric values; return the number of epochs, the callback and the learner."""
    one, stopping = learner(), EarlyStopping(**options)
    set_metric = SetMetric(*values, phase=options.get("phase", "eval"), metric=options.get("metric", "loss"))
    one.fit(len(values), callbacks=[stopping, set_metric])
    return len(one.history), stopping, one


@pytest.mark.parametrize(
    ("values", "options", "epochs"),
    [
        ((3.0, 2.0, 1.0, 0.5), {"patience": 1}, 4),
        ((3.0, 3.0, 1.0, 0.5), {"patience": 1}, 2),
        ((3.0, 3.1, 2.9, 3.0, 3.0, 1.0), {"patience": 2}, 5),
        ((3.0, 3.1, 3.2, 2.9, 1.0), {"patience": 2}, 3),
        ((0.1, 0.2, 0.2, 0.3), {"patience": 1, "mode": "max"}, 3),
        ((0.1, 0.2, 0.3, 0.4), {"patience": 1, "mode": "min"}, 2),
        ((1.0, 0.9, 0.8, 0.7), {"patience": 1, "min_delta": 0.15}, 2),
        ((1.0, 0.9, 0.8, 0.7), {"patience": 2, "min_delta": 0.15}, 4),
        ((1.0, 0.5, 0.25), {"patience": 1, "min_delta": 0.25}, 3),
        ((NAN, NAN, 1.0), {"patience": 2}, 2),
        ((NAN, 1.0, NAN, NAN, 0.5), {"patience": 2}, 4),
        ((INF, INF, 1.0), {"patience": 1}, 2),
        ((1.0, -INF, -INF), {"patience": 1}, 3),
        ((0.5, 0.4, 0.4), {"patience": 1, "metric": "accuracy", "mode": "max"}, 2),
        ((3.0, 3.0, 1.0), {"patience": 1, "phase": "train"}, 2),
    ],
)
def test_fit_stops_after_patience_epochs_without_improvement(values, options, epochs):
    assert fit_with_metric(*values, **options)[0] == epochs


def test_best_value_and_epoch():
    epochs, stopping, one = fit_with_metric(3.0, 1.0, 2.0, 2.0, patience=2)
    assert (epochs, stopping.best, stopping.best_epoch, stopping.waited) == (4, 1.0, 1, 2)
    assert one.stop_reason == "eval loss has not improved from 1 for 2 epochs"


def test_last_epoch_is_completed():
    class RecordEvents(Callback):
        order = 1000

        def __init__(self):
            self.recorded = []

        def after_epoch(self, learner):
            self.recorded.append((learner.epoch, learner.loop.phase, learner.loop.position))

        def after_fit(self, learner):
            self.recorded.append("after_fit")

    recorded, one = RecordEvents(), learner()
    stop_while_training = EarlyStopping(phase="train", patience=1)
    one.fit(5, callbacks=[recorded, stop_while_training, SetMetric(1.0, 2.0, phase="train")])
    assert recorded.recorded == [
        (0, "train", (0, 3)),
        (0, "eval", (1, 0)),
        (1, "train", (1, 3)),
        (1, "eval", (2, 0)),
        "after_fit",
    ]
    one.fit(1)
    assert one.stop_reason is None


class SaveStates(Callback):
    """Save the state of the learner after every epoch, like a checkpoint."""

    order = 90

    def __init__(self):
        self.states, self.models = [], []

    def after_epoch(self, learner):
        if not learner.training:
            self.states.append(copy.deepcopy(learner.state_dict()))
            self.models.append(weights(learner))


def test_resumed_fit_continues_counting():
    saved, values = SaveStates(), (3.0, 1.0, 2.0, 2.0, 2.0, 0.5)
    learner().fit(6, callbacks=[EarlyStopping(patience=3), SetMetric(*values), saved])
    assert len(saved.states) == 5
    for state in saved.states:
        resumed, stopping = learner(), EarlyStopping(patience=3)
        resumed.fit(6, callbacks=[stopping, SetMetric(*values)], resume=state)
        assert (len(resumed.history), stopping.best, stopping.best_epoch, stopping.waited) == (5, 1.0, 1, 3)
        assert resumed.stop_reason is not None
    patient = learner()
    patient.fit(6, callbacks=[EarlyStopping(patience=4), SetMetric(*values)], resume=saved.states[-1])
    assert len(patient.history) == 6
    assert patient.stop_reason is None


@pytest.mark.parametrize("epochs", [3, 6], ids=["at the last epoch", "early"])
def test_best_weights_are_restored(epochs):
    saved, one = SaveStates(), learner()
    one.fit(epochs, callbacks=[EarlyStopping(patience=2, restore_best=True), SetMetric(3.0, 1.0, 2.0, 2.0), saved])
    assert len(one.history) == min(epochs, 4)
    assert same(weights(one), saved.models[1])
    assert not same(weights(one), saved.models[-1])
    resumed = learner(seed=0)
    stopping = EarlyStopping(patience=2, restore_best=True)
    resumed.fit(epochs, callbacks=[stopping, SetMetric(3.0, 1.0, 2.0, 2.0)], resume=saved.states[2])
    assert same(weights(resumed), saved.models[1])


def test_restored_weights_are_the_evaluated_averages():
    class Evaluated(Callback):
        def __init__(self):
            self.models = []

        def before_batch(self, learner):
            if not learner.training:
                self.models.append(weights(learner))

    seen, one = Evaluated(), learner(lr=0.1)
    one.fit(3, callbacks=[EarlyStopping(restore_best=True), EMA(0.9), SetMetric(3.0, 1.0, 2.0), seen])
    assert same(weights(one), seen.models[1])


def test_cancelled_fit_does_not_restore_weights():
    one, saved = learner(), SaveStates()

    class Cancels(Callback):
        order = 100

        def after_epoch(self, learner):
            if learner.epoch == 1 and not learner.training:
                raise CancelFit

    one.fit(4, callbacks=[EarlyStopping(restore_best=True), SetMetric(1.0, 2.0), saved, Cancels()])
    assert same(weights(one), saved.models[1])


def test_state_within_an_epoch():
    stop = StopAt(4)
    torch.manual_seed(7)
    learner().fit(3, callbacks=[EarlyStopping(patience=1), stop])
    state = stop.state["callbacks"]["EarlyStopping"]
    assert state["best"] is not None
    assert (state["best_epoch"], state["waited"], state["weights"]) == (0, 0, None)


def test_invalid_arguments_are_rejected():
    for value in Interval(1, math.inf, "left", integer=True).refused():
        with pytest.raises(ArgumentError, match="EarlyStopping: patience must be"):
            EarlyStopping(patience=value)
    for value in NONNEGATIVE.refused():
        with pytest.raises(ArgumentError, match="EarlyStopping: min_delta must be"):
            EarlyStopping(min_delta=value)
    with pytest.raises(ArgumentError, match="mode must be one of 'min', 'max', got 'best'"):
        EarlyStopping(mode="best")
    with pytest.raises(ArgumentError, match="phase must be one of 'train', 'eval', got 'valid'"):
        EarlyStopping(phase="valid")
    with pytest.raises(ArgumentError, match="metric must be the name of a metric, got None"):
        EarlyStopping(metric=None)
    with pytest.raises(ArgumentError, match="Unknown metric 'acuracy': did you mean 'accuracy'"):
        learner().fit(1, callbacks=[EarlyStopping("acuracy")])
    with pytest.raises(ArgumentError, match="Unknown phase 'eval'"):
        learner().fit(1, callbacks=[EarlyStopping()], evaluate=False)
