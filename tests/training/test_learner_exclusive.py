"""Fits of a learner within a fit, in its callbacks or in other threads, which raise and do not affect the fit."""

from __future__ import annotations

import threading

import pytest
import torch
from learner_support import At, learner, on_batch, same, weights
from slow_values import others_slow

from dashpot.errors import RunError
from dashpot.training import find_lr


def fitted(callbacks):
    torch.manual_seed(1)
    subject = learner(callbacks=callbacks)
    subject.fit(3)
    return subject


def fit_again(learner):
    with pytest.raises(RunError, match=r"fit must not be called during fit .*call learner.evaluate\(\)"):
        learner.fit(1)
    with pytest.raises(RunError, match=r"find_lr must not be called during fit"):
        find_lr(learner)


EVENTS = ["before_fit", "after_loss", "after_batch", "after_epoch", "after_fit", "cleanup_fit"]


@pytest.mark.parametrize("event", others_slow(EVENTS, "after_batch", "cleanup_fit"))
def test_fit_within_a_fit_raises_and_does_not_affect_it(event):
    called = []

    def hook(learner):
        fit_again(learner)
        called.append(event)

    actual, expected = fitted([At(event, hook)]), fitted([])
    assert called
    assert same(weights(actual), weights(expected))
    assert (actual.history, actual.steps) == (expected.history, expected.steps)


def test_fit_in_another_thread_of_a_running_fit_raises():
    outcomes = []

    def call(learner):
        thread = threading.Thread(target=lambda: outcomes.append(fit_again(learner)))
        thread.start()
        thread.join()

    actual, expected = fitted([At("after_step", call)]), fitted([])
    assert len(outcomes) == actual.steps
    assert same(weights(actual), weights(expected))


def test_fit_within_evaluate_raises():
    def hook(learner):
        with pytest.raises(RunError, match="fit must not be called during evaluate of the same learner; a callback"):
            learner.fit(1)

    hooked = learner(callbacks=[At("after_predict", hook)])
    assert hooked.evaluate() == learner().evaluate()


def test_fit_after_a_failed_fit_is_accepted():
    subject = learner()
    with pytest.raises(ZeroDivisionError):
        subject.fit(1, callbacks=[At("after_batch", lambda learner: 1 / (not on_batch(1)(learner)))])
    subject.fit(1)
    assert subject.steps == 3
