"""Cleanup events after errors and cancellations."""

from __future__ import annotations

from contextlib import suppress

import pytest
from learner_support import At, learner, on_batch, raise_if

from dashpot.training import Callback, CancelBatch, CancelEpoch, CancelFit


class FailingCleanup(Callback):
    """Log the cleanup events, and raise an error at the events in `fail`."""

    def __init__(self, fail=(), order=0):
        self.fail, self.order, self.cleaned = fail, order, []

    def before_fit(self, learner):
        self._at("before_fit")

    def after_loss(self, learner):
        self._at("after_loss")

    def cleanup_batch(self, learner):
        self.cleaned.append("batch")
        self._at("cleanup_batch")

    def cleanup_epoch(self, learner):
        self.cleaned.append("epoch")

    def cleanup_fit(self, learner):
        self.cleaned.append("fit")
        self._at("cleanup_fit")

    def _at(self, event):
        if event in self.fail:
            raise ZeroDivisionError(f"{event} of {self.order}")


def test_cleanup_events_follow_errors():
    faulty, other = FailingCleanup(["after_loss"], order=1), FailingCleanup(order=2)
    with pytest.raises(ZeroDivisionError, match="after_loss of 1"):
        learner(callbacks=[faulty, other]).fit(1)
    assert faulty.cleaned == other.cleaned == ["batch", "epoch", "fit"]


@pytest.mark.parametrize(
    ("scope", "error", "skipped"),
    [
        ("fit", ZeroDivisionError, True),
        ("fit", CancelFit, True),
        ("epoch", ZeroDivisionError, True),
        ("epoch", CancelFit, True),
        ("epoch", CancelEpoch, False),  # such an epoch counts, for example for schedules and checkpoints
        ("batch", ZeroDivisionError, True),
        ("batch", CancelEpoch, True),
        ("batch", CancelBatch, False),
    ],
)
def test_cleanup_after_exception_in_before_event_runs_only_for_callbacks_that_began(scope, error, skipped):
    first, last = FailingCleanup(order=1), FailingCleanup(order=3)
    faulty = At(f"before_{scope}", raise_if(error, lambda learner: learner.training and learner.epoch == 0), order=2)
    faulty.cleaned = 0
    setattr(faulty, f"cleanup_{scope}", lambda _: setattr(faulty, "cleaned", faulty.cleaned + 1))
    with suppress(ZeroDivisionError):
        learner(callbacks=[first, faulty, last]).fit(1, evaluate=False)
    missing = first.cleaned.count(scope) - last.cleaned.count(scope)
    assert missing == (1 if skipped else 0)
    assert faulty.cleaned == first.cleaned.count(scope) > 0


def test_all_callbacks_begin_again_after_a_failed_fit():
    first, last, failing = FailingCleanup(order=1), FailingCleanup(order=3), [True]
    faulty = At("before_fit", raise_if(ZeroDivisionError, lambda _: failing.pop()), order=2)
    made = learner(callbacks=[first, faulty, last])
    with pytest.raises(ZeroDivisionError):
        made.fit(1)
    failing.append(False)
    made.fit(1)
    assert (first.cleaned.count("fit"), last.cleaned.count("fit")) == (2, 1)


def test_cleanup_runs_for_all_callbacks_if_one_raises():
    faulty, other = FailingCleanup(["cleanup_batch", "cleanup_fit"], order=1), FailingCleanup(order=2)
    with pytest.raises(ZeroDivisionError, match="cleanup_fit of 1") as caught:
        learner(callbacks=[faulty, other]).fit(1)
    assert "cleanup_batch of 1" in str(caught.value.__context__)
    assert other.cleaned == ["batch", "epoch", "fit"]


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
@pytest.mark.parametrize("cancel", [CancelBatch, CancelEpoch, CancelFit])
@pytest.mark.parametrize("cleanup", ["cleanup_batch", "cleanup_epoch", "cleanup_fit"])
def test_cancellation_in_cleanup_does_not_replace_error(error, cancel, cleanup):
    fails, cancels = At("after_loss", raise_if(error, on_batch(1))), At(cleanup, raise_if(cancel, on_batch(1)))
    with pytest.raises(error):
        learner(callbacks=[fails, cancels]).fit(2)


@pytest.mark.parametrize(
    ("cancel", "cleanup", "steps"),
    [
        (CancelBatch, "cleanup_batch", 6),
        (CancelEpoch, "cleanup_batch", 2),
        (CancelFit, "cleanup_batch", 1),
        (CancelEpoch, "cleanup_epoch", 6),
        (CancelFit, "cleanup_epoch", 3),
        (CancelFit, "cleanup_fit", 6),
    ],
)
def test_cancellation_in_cleanup_ends_enclosing_scope(cancel, cleanup, steps):
    one = learner(callbacks=[At(cleanup, raise_if(cancel, lambda made: made.training or cleanup == "cleanup_fit"))])
    one.fit(2)
    assert one.steps == steps


@pytest.mark.parametrize(
    ("error", "seen"),
    [
        (CancelBatch, [None, None, None]),
        (CancelEpoch, [CancelEpoch, None, None]),
        (CancelFit, [CancelFit, CancelFit, None]),
        (KeyboardInterrupt, [KeyboardInterrupt] * 3),
    ],
)
def test_unwinding_is_type_of_propagating_exception(error, seen):
    """`unwinding` does not depend on whether the fit is started in an except block."""
    unwinding = []

    class RecordUnwinding(Callback):
        def after_loss(self, learner):
            raise error

        def cleanup_batch(self, learner):
            unwinding.append(learner.loop.unwinding)

        cleanup_epoch = cleanup_fit = cleanup_batch

    try:
        int("not a number")
    except ValueError:
        with suppress(KeyboardInterrupt):
            learner(examples=4).fit(1, callbacks=[RecordUnwinding()], evaluate=False)
    assert unwinding == seen
