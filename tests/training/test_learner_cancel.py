"""Cancellation of batches, phases and fits."""

from __future__ import annotations

import statistics

import pytest
import torch
from event_support import END, EVAL, TRAIN, events_of
from learner_support import (
    At,
    X,
    Y,
    call_if,
    learner,
    linear_learner,
    multiply_loss,
    on_batch,
    pairs,
    raise_if,
    same,
    weights,
)
from torch import nn

from dashpot.errors import RunError
from dashpot.schedules import Exponential
from dashpot.training import (
    CSV,
    Accumulate,
    Callback,
    CancelBatch,
    CancelEpoch,
    CancelFit,
    Checkpoints,
    ClipGradients,
    JSONLines,
    NonFinite,
    Recorder,
    Schedule,
)
from dashpot.training.callback import ACTIONS


class Raise(Callback):
    """Raise an exception once, at an event or action of a training phase."""

    def __init__(self, where, error, order=100):
        self.error, self.order, self.done = error, order, False
        setattr(self, where, self._action_hook if where in ACTIONS else self._event_hook)

    def _event_hook(self, learner):
        self._raise(learner)

    def _action_hook(self, learner, proceed):
        self._raise(learner)
        proceed()

    def _raise(self, learner):
        if not self.done:
            self.done = True
            raise self.error


@pytest.mark.parametrize("where", [*TRAIN[:-2]])
def test_cancel_batch_skips_to_cleanup_batch(where):
    reached = TRAIN[: TRAIN.index(where) + 1]
    expected = [*reached, "cleanup_batch", *TRAIN, *END]
    assert events_of(Raise(where, CancelBatch))[2:] == [
        *expected,
        "before_epoch",
        *EVAL,
        *END,
        "after_fit",
        "cleanup_fit",
    ]


@pytest.mark.parametrize("where", ["before_epoch", "before_batch", "backward", "after_step", "after_batch"])
def test_cancel_epoch_skips_rest_of_phase(where):
    inside = [] if where == "before_epoch" else [*TRAIN[: TRAIN.index(where) + 1], "cleanup_batch"]
    rest = ["before_epoch", *EVAL, *END, "after_fit", "cleanup_fit"]
    assert events_of(Raise(where, CancelEpoch)) == ["before_fit", "before_epoch", *inside, "cleanup_epoch", *rest]


@pytest.mark.parametrize("where", ["before_fit", "before_epoch", "after_loss", "step", "after_epoch", "after_fit"])
def test_cancel_fit_skips_rest_of_fit(where):
    whole = events_of()
    expected = whole[: whole.index(where) + 1]
    if where in TRAIN:
        expected += ["cleanup_batch"]
    if where not in ("before_fit", "after_fit"):
        expected += ["cleanup_epoch"]
    assert events_of(Raise(where, CancelFit)) == [*expected, "cleanup_fit"]


@pytest.mark.parametrize(("cancel", "event"), [(CancelBatch, "before_epoch"), (CancelEpoch, "before_fit")])
def test_cancellation_outside_its_scope_raises(cancel, event):
    with pytest.raises(RunError, match=f"{cancel.__name__} must be raised within a"):
        learner(callbacks=[At(event, raise_if(cancel, lambda _: True))]).fit(1)


# ---- effect on means and steps --------------------------------------------------------------------------------------


def test_cancelled_batch_is_excluded_from_means_and_steps():
    class Second(Callback):
        def after_loss(self, learner):
            if learner.training and learner.batch.index == 1:
                raise CancelBatch

    subject = learner(callbacks=[Second()])
    subject.fit(1)
    assert (subject.steps, subject.loop.means.count) == (2, 10)
    assert len(subject.history) == 1


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("where", ["after_backward", "step"])
def test_cancelled_step_discards_its_gradients(where, accumulate):
    """The next step must not use the sum of its own gradient and the discarded one."""
    norms = {}

    class Norms(Callback):
        order = -20

        def __init__(self, cancelled):
            self.cancelled, self.norms = cancelled, []

        def before_fit(self, learner):
            learner.loop.accumulate = accumulate

        def after_backward(self, learner):
            if learner.batch.is_last_microbatch:
                self.norms.append([p.grad.norm().item() for p in learner.model.parameters()])
                if where == "after_backward":
                    self._cancel(learner)

        def step(self, learner, proceed):
            if where == "step":
                self._cancel(learner)

        def _cancel(self, learner):
            if self.cancelled and learner.batch.index == accumulate - 1:
                raise CancelBatch

    for cancelled in (False, True):
        callback = Norms(cancelled)
        torch.manual_seed(3)
        learner(callbacks=[callback], examples=16).fit(1, evaluate=False)
        norms[cancelled] = callback.norms
    assert norms[True] == norms[False]
    assert len(norms[True]) == 4 // accumulate


def test_step_counts_if_batch_is_cancelled_after_it():
    class Cancels(Callback):
        order = 30

        def step(self, learner, proceed):
            proceed()
            if learner.batch.index == 1:
                raise CancelBatch

    seen = Recorder()
    one = learner(callbacks=[Cancels(), seen])
    one.fit(2)
    assert one.steps == len(seen.values["loss"]) == 6


@pytest.mark.parametrize("training", [True, False])
def test_cancelled_phase_records_means(training):
    seen = []

    class CancelPhase(Callback):
        def after_batch(self, learner):
            if learner.training == training:
                raise CancelEpoch

        def cleanup_epoch(self, learner):
            seen.append((learner.training, learner.loop.position, dict(learner.history[learner.epoch])))

    one = learner(callbacks=[CancelPhase()])
    one.fit(1)
    assert set(one.history[0]["train"]) == set(one.history[0]["eval"]) == {"loss", "accuracy"}
    assert [training_phase for training_phase, *_ in seen] == [True, False]
    assert all(means["train" if training_phase else "eval"] for training_phase, _, means in seen)
    assert seen[-1][1] == one.loop.position == (1, 0)


def cancel_phase(phase):
    """Cancel a phase of every other epoch in before_epoch."""
    return At("before_epoch", raise_if(CancelEpoch, lambda made: made.loop.phase == phase and made.epoch % 2 == 0))


@pytest.mark.parametrize(("phase", "evaluate"), [("eval", True), ("train", True), ("train", False)])
def test_cancelled_phase_counts_as_epoch(tmp_path, phase, evaluate):
    seen = []
    note = At("after_epoch", lambda made: seen.append(made.opt.param_groups[0]["lr"]) if made.training else None)
    parts = [cancel_phase(phase), Schedule(Exponential(0.5), per="epoch"), Checkpoints(tmp_path, keep=None), note]
    one = learner(torch.optim.SGD, lr=0.8, callbacks=[*parts, CSV(tmp_path / "log.csv")])
    one.fit(4, evaluate=evaluate)
    every = [0.8, 0.4, 0.2, 0.1]
    assert seen == (every if phase == "eval" else every[1::2])
    assert all(set(epoch) >= {"train"} for epoch in one.history)
    # A checkpoint follows every epoch, except the first one if it has no training.
    assert len(list(tmp_path.glob("step-*.ckpt"))) == (4 if phase == "eval" else 3)
    assert len((tmp_path / "log.csv").read_text().splitlines()) == 5


# ---- gradient accumulation ------------------------------------------------------------------------------------------


class CancelAt(Callback):
    def __init__(self, where, batch):
        self.batch = batch
        self.where = where
        setattr(self, where, self.cancel)

    def cancel(self, learner, proceed=lambda: None):
        if learner.batch.index == self.batch:
            raise CancelBatch
        proceed()


@pytest.mark.parametrize("where", ["before_batch", "after_predict", "after_loss"])
def test_step_uses_other_microbatches_if_last_is_cancelled_before_backward(where):
    """If the third of 3 micro-batches is cancelled, the step uses the gradient of the mean loss of the other two."""
    data = [*pairs(4), (X[:4], Y[:4])]
    one = linear_learner(data, callbacks=[Accumulate(3), CancelAt(where, 2)])
    one.fit(1)
    model = linear_learner(data).model
    for batches, share in ((data[:2], 1 / 2), (data[3:], 1.0)):
        losses = [nn.functional.cross_entropy(model(x), y) * share for x, y in batches]
        slopes = torch.autograd.grad(torch.stack(losses).sum(), list(model.parameters()))
        with torch.no_grad():
            for p, slope in zip(model.parameters(), slopes, strict=True):
                p -= 0.1 * slope
    assert one.steps == 2
    for p, q in zip(one.model.parameters(), model.parameters(), strict=True):
        assert torch.allclose(p, q, atol=1e-6)  # the order of float32 sums differs


@pytest.mark.parametrize("where", ["backward", "after_backward", "step"])
def test_step_is_discarded_if_last_microbatch_is_cancelled_after_backward(where):
    data = [*pairs(4), (X[:4], Y[:4])]
    one = linear_learner(data, callbacks=[Accumulate(3), CancelAt(where, 2)])
    one.fit(1)
    assert one.steps == 1
    alone = linear_learner(data[3:])
    alone.fit(1)
    assert same(weights(one), weights(alone))


@pytest.mark.parametrize("first", [0, 2])
def test_recorded_loss_excludes_cancelled_microbatches(tmp_path, first):
    cancels = At("before_batch", raise_if(CancelBatch, on_batch(first)))
    seen, losses = Recorder(), []
    note = At("after_backward", lambda made: losses.append(made.batch.loss.item()))
    learner(batch_size=2, callbacks=[Accumulate(2), cancels, seen, JSONLines(tmp_path / "log", every=1), note]).fit(1)
    means = {0: [losses[:1], losses[1:3], losses[3:]], 2: [losses[:2], losses[2:3], losses[3:]]}
    expected = {first: [statistics.fmean(step) for step in steps] for first, steps in means.items()}
    assert seen.values["loss"] == pytest.approx(expected[first], rel=1e-6)  # float32 sums


def test_nonfinite_report_excludes_cancelled_microbatches(tmp_path):
    cancels = At("before_batch", raise_if(CancelBatch, on_batch(2)))
    breaks = At("after_loss", call_if(multiply_loss(torch.nan), on_batch(3)))
    with pytest.warns(RuntimeWarning, match="Step 2 "):
        learner(batch_size=2, callbacks=[Accumulate(2), cancels, breaks, NonFinite(folder=tmp_path)]).fit(1)
    [path] = tmp_path.glob("*.pt")
    assert [batch["batch"] for batch in torch.load(path, weights_only=True)["batches"]] == [3]


def test_grad_norm_is_measured_before_clipping_if_last_microbatch_is_cancelled():
    def norms(*more):
        seen, cancels = Recorder("grad_norm"), At("before_batch", raise_if(CancelBatch, on_batch(1)))
        torch.manual_seed(0)
        learner(torch.optim.SGD, lr=0.0, batch_size=2, callbacks=[Accumulate(2), seen, cancels, *more]).fit(1)
        return seen.values["grad_norm"]

    assert norms(ClipGradients(norm=1e-3)) == norms()
