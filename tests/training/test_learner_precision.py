"""Mixed precision: dtypes, and the order of unscale, clip, step and update with a loss scale."""

from __future__ import annotations

import math
from typing import ClassVar

import pytest
import torch
from learner_support import KeepGradients, StopAt, fp16, learner, linear_learner, pairs, same, weights
from slow_values import others_slow
from torch import nn

import dashpot as dp
from dashpot.data import Batches
from dashpot.errors import ArgumentError
from dashpot.schedules import Cosine
from dashpot.tasks import Problem
from dashpot.training import CSV, Callback, CancelBatch, Engine, Learner
from dashpot.training.callbacks.accumulate import Accumulate
from dashpot.training.callbacks.clip_gradients import ClipGradients
from dashpot.training.callbacks.freeze import Freeze
from dashpot.training.callbacks.recorder import Recorder
from dashpot.training.callbacks.schedule import Schedule

HALF = 2.0**-10
"""Spacing of float16 numbers around 1, which bounds the relative error of one rounding."""


def trained(engine, make=torch.optim.SGD, callbacks=(), epochs=2, lr=0.1, **options):
    """Fit a small smooth model, with gradient norms of about 1."""
    draw = torch.Generator().manual_seed(1)
    x, y = torch.randn(24, 3, generator=draw), torch.randint(0, 2, (24,), generator=draw)
    with torch.random.fork_rng():
        torch.manual_seed(2)
        model = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2))
    made = Problem(model=model, train=Batches(x, y, 8), loss=nn.functional.cross_entropy)
    subject = Learner.of(made, make, lr=lr, callbacks=callbacks, engine=engine)
    subject.fit(epochs, **options)
    return subject


def distance(a, b):
    return max((x - y).abs().max().item() for x, y in zip(weights(a), weights(b), strict=True))


# ---- dtypes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("precision", "kind"), [("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)]
)
def test_autocast_keeps_weights_gradients_and_losses_in_float32(precision, kind):
    seen = set()

    class RecordDtypes(Callback):
        def after_loss(self, learner):
            seen.add((learner.batch.output.dtype, learner.batch.loss.dtype))

        def after_backward(self, learner):
            assert {p.grad.dtype for p in learner.model.parameters()} == {torch.float32}

    subject = learner(dp.AdamW, engine=Engine("cpu", precision=precision), callbacks=[RecordDtypes()])
    subject.fit(2)
    assert seen == {(kind, torch.float32)}
    assert {p.dtype for p in subject.model.parameters()} == {torch.float32}
    assert (subject.engine.scaler is not None) == (precision == "fp16")
    assert math.isfinite(subject.history[-1]["eval"]["loss"])


def test_bf16_equals_manual_autocast():
    class ManualAutocast(Callback):
        def predict(self, learner, proceed):
            with torch.autocast("cpu", torch.bfloat16):
                learner.batch.output = learner.model(learner.batch.x)

        def get_loss(self, learner, proceed):
            with torch.autocast("cpu", torch.bfloat16):
                learner.batch.loss = nn.functional.cross_entropy(learner.batch.output, learner.batch.y)

    assert same(
        weights(trained(Engine("cpu", precision="bf16"))), weights(trained(Engine("cpu"), callbacks=[ManualAutocast()]))
    )
    assert not same(weights(trained(Engine("cpu", precision="bf16"))), weights(trained(Engine("cpu"))))


@pytest.mark.parametrize("bad", ["float16", "16", None, 16])
def test_unknown_precision_raises(bad):
    with pytest.raises(ArgumentError, match="Engine: precision must be one of 'fp32', 'bf16', 'fp16'"):
        Engine("cpu", precision=bad)


# ---- the order under a loss scale -----------------------------------------------------------------------------------


def reference_loop(scale, max_norm=None, epochs=2):
    """Run the mixed-precision loop from the documentation of torch."""
    subject = learner_without_fit()
    model, opt = subject.model, torch.optim.SGD(subject.model.parameters(), lr=0.1, momentum=0.9)
    scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    for epoch in range(epochs):
        for x, y in subject.train.source.epoch(epoch):
            opt.zero_grad()
            with torch.autocast("cpu", torch.float16):
                loss = nn.functional.cross_entropy(model(x), y)
            scaler.scale(loss).backward()
            if max_norm is not None:
                scaler.unscale_(opt)
                nn.utils.clip_grad_norm_(model.parameters(), max_norm)
            scaler.step(opt)
            scaler.update()
    return [value.clone() for value in model.state_dict().values()]


def learner_without_fit():
    return trained(Engine("cpu"), epochs=1, train=False)


def momentum(params, lr):
    return torch.optim.SGD(params, lr=lr, momentum=0.9)


@pytest.mark.parametrize("max_norm", [None, 0.05])
@pytest.mark.parametrize("scale", [2.0**10, 2.0**40])
def test_fp16_equals_documented_torch_loop(scale, max_norm):
    """The results are bit-identical, even if the first steps overflow."""
    callbacks = [] if max_norm is None else [ClipGradients(norm=max_norm)]
    subject = trained(fp16(scale), momentum, callbacks)
    assert same(weights(subject), reference_loop(scale, max_norm))


def test_fp16_order_is_unscale_clip_step_update(monkeypatch):
    calls = []
    engine = fp16()
    for name in ("scale", "unscale_", "step", "update"):
        own = getattr(engine.scaler, name)
        monkeypatch.setattr(engine.scaler, name, lambda *a, own=own, name=name: (calls.append(name), own(*a))[1])
    monkeypatch.setattr(
        "dashpot.training.callbacks.clip_gradients.clip_grads_with_norm_",
        lambda *a: calls.append("clip") or torch.zeros(()),
    )
    trained(engine, callbacks=[ClipGradients(norm=1.0), Recorder("grad_norm"), Accumulate(3)], epochs=1)
    assert calls == ["scale", "scale", "scale", "unscale_", "clip", "step", "update"]


@pytest.mark.parametrize("make", [torch.optim.SGD, dp.SGD, dp.AdamW], ids=["torch", "SGD", "AdamW"])
def test_clipping_applies_to_unscaled_gradients(make):
    """The steps in fp16 and fp32 differ only by float16 rounding.

    If gradients were clipped before unscaling, they would be 1024 times too small; without unscaling, 1024 times too
    large.
    """
    recorders = [Recorder("grad_norm"), Recorder("grad_norm")]
    scaled, true = (
        trained(engine, make, [ClipGradients(norm=0.05), recorder], lr=0.1)
        for engine, recorder in zip((fp16(), Engine("cpu")), recorders, strict=True)
    )
    moved = distance(true, learner_without_fit())
    assert distance(scaled, true) < (0.02 if make is not dp.AdamW else 0.2) * moved
    of_scaled, of_true = (recorder.values["grad_norm"] for recorder in recorders)
    assert of_scaled == pytest.approx(of_true, rel=8 * HALF)
    assert min(of_true) > 0.05


def test_accumulated_gradients_are_unscaled_once():
    scaled, true = (trained(engine, callbacks=[Accumulate(3)]) for engine in (fp16(), Engine("cpu")))
    assert distance(scaled, true) < 0.02 * distance(true, learner_without_fit())


# ---- an overflow ----------------------------------------------------------------------------------------------------


class Overflow(Callback):
    """Set a gradient to infinity in the second batch of the first epoch, and record what each step changes."""

    order = 1

    def __init__(self):
        self.notes = []

    def after_backward(self, learner):
        if (learner.epoch, learner.batch.index) == (0, 1):
            next(learner.model.parameters()).grad[0, 0] = math.inf

    def step(self, learner, proceed):
        before = self._state(learner)
        scale = learner.engine.scaler.get_scale()
        proceed()
        same_weights = all(torch.equal(a, b) for a, b in zip(before[0], self._state(learner)[0], strict=True))
        same_counts = before[1] == self._state(learner)[1]
        self.notes.append((learner.batch.stepped, same_weights, same_counts, learner.engine.scaler.get_scale() / scale))

    @staticmethod
    def _state(learner):
        opt = learner.opt
        tensors = [p.detach().clone() for p in learner.model.parameters()]
        tensors += [v.clone() for state in opt.state.values() for k, v in sorted(state.items()) if k != "step"]
        counts = [float(state["step"]) for state in opt.state.values() if "step" in state]
        return tensors, (counts, opt.steps_done() if hasattr(opt, "steps_done") else None)


@pytest.mark.parametrize("clip", [False, True], ids=["", "clipped"])
@pytest.mark.parametrize("make", [torch.optim.AdamW, dp.AdamW, dp.SGD], ids=["torch", "AdamW", "SGD"])
def test_overflow_skips_step_and_state(make, clip):
    overflow, recorder, stepped_batches = Overflow(), Recorder("lr", "grad_norm"), []

    class Count(Callback):
        def after_step(self, learner):
            stepped_batches.append(learner.batch.index)

    callbacks = [overflow, recorder, Schedule(Cosine), Count(), *([ClipGradients(norm=1.0)] if clip else [])]
    subject = trained(fp16(), make, callbacks)
    stepped = [note[0] for note in overflow.notes]
    assert stepped == [True, False, True, True, True, True]
    assert overflow.notes[1] == (False, True, True, 0.5)
    assert {note[3] for note in overflow.notes if note[0]} == {1.0}
    assert recorder.values["lr"] == [Cosine(6).value(0.1, step) for step in range(5)]
    assert all(map(math.isfinite, recorder.values["grad_norm"]))
    assert subject.steps == len(recorder.values["loss"]) == len(stepped_batches) == 5
    assert all(value.isfinite().all() for value in weights(subject))


def test_steps_after_overflow_equal_those_without_that_batch():
    class SkipStep(Callback):
        def step(self, learner, proceed):
            if (learner.epoch, learner.batch.index) != (0, 1):
                proceed()

    for make in (dp.AdamW, torch.optim.AdamW):
        overflown = trained(fp16(), make, [Overflow(), Schedule(Cosine)])
        left = trained(fp16(), make, [SkipStep(), Schedule(Cosine)])
        # The scale is a power of two, so it only affects values that are too small for float16.
        assert distance(overflown, left) < 1e-3


def test_loss_scale_grows_after_overflow():
    engine = fp16(interval=2)
    trained(engine, epochs=2)
    assert engine.scaler.get_scale() == 2.0**13


def test_step_after_cancelled_step_is_unscaled():
    """If the scaler assumed that the gradients are already unscaled, the step would be 1024 times too large."""

    class CancelFirst(Callback):
        order = 20

        def step(self, learner, proceed):
            if (learner.epoch, learner.batch.index) == (0, 0):
                raise CancelBatch
            proceed()

    scaled, true = (trained(e, callbacks=[ClipGradients(norm=9.0), CancelFirst()]) for e in (fp16(), Engine("cpu")))
    assert distance(scaled, true) < 0.02 * distance(true, learner_without_fit())
    assert scaled.steps == true.steps == 5


@pytest.mark.parametrize("at", others_slow([1, 2, 4], 2))
def test_loss_scale_is_restored_on_resume(at):
    def fitted(callbacks=(), **options):
        engine = fp16(interval=3)
        subject = learner(dp.AdamW, engine=engine, callbacks=[Overflow2(), Schedule(Cosine)])
        subject.fit(3, callbacks=callbacks, **options)
        return subject, engine.scaler.state_dict()

    torch.manual_seed(1)
    whole, scale = fitted()
    torch.manual_seed(1)
    stop = StopAt(at)
    fitted([stop])
    resumed, again = fitted(resume=stop.state)
    assert same(weights(whole), weights(resumed))
    assert scale == again
    assert whole.steps == resumed.steps == 8


class Overflow2(Overflow):
    """Variant of `Overflow` that records no changes."""

    def step(self, learner, proceed):
        proceed()


# ---- second-order methods -------------------------------------------------------------------------------------------


@pytest.mark.diagonal
@pytest.mark.parametrize("clip", [False, True], ids=["", "clipped"])
@pytest.mark.parametrize("make", [dp.Sophia, dp.AdaHessian, dp.ESGD], ids=lambda make: make.__name__)
def test_second_order_methods_with_loss_scale(make, clip):
    """Products are unscaled like the gradients, so the curvature equals that in fp32 up to float16 rounding."""

    def fitted(engine):
        callbacks = [ClipGradients(norm=0.5)] if clip else []
        return trained(engine, lambda params, lr: make(params, lr=lr), callbacks, lr=0.01)

    scaled, true = fitted(fp16()), fitted(Engine("cpu"))
    assert scaled.opt.curvature_stats.products == true.opt.curvature_stats.products > 0
    assert distance(scaled, true) < 0.1 * distance(true, learner_without_fit())


@pytest.mark.parametrize("make", [dp.Sophia, dp.AdaHessian], ids=lambda make: make.__name__)
def test_overflow_skips_second_order_step(make):
    overflow = Overflow()
    subject = trained(fp16(), make, [overflow, Schedule(Cosine)], lr=0.01)
    assert [note[0] for note in overflow.notes] == [True, False, True, True, True, True]
    assert overflow.notes[1] == (False, True, True, 0.5)
    assert all(value.isfinite().all() for value in weights(subject))


# ---- gradients kept between steps, and failed steps ------------------------------------------------------------------


def test_gradients_kept_by_callback_are_rescaled():
    def fitted(engine, callbacks):
        one = linear_learner(pairs(), callbacks=callbacks)
        one.engine = one.train.engine = engine
        one.fit(2)
        return torch.cat([value.flatten() for value in weights(one)])

    true = fitted(Engine("cpu"), [KeepGradients()])
    # The weights change in 6 steps with gradients below 1, each rounded to the 11 significant bits of float16.
    assert torch.allclose(fitted(fp16(), [KeepGradients()]), true, atol=5e-3)
    assert not torch.allclose(fitted(fp16(), []), true, atol=0.05)  # the effect of the kept gradients is much larger


def test_fit_after_failed_step_under_loss_scale():
    class FailOnce(torch.optim.SGD):
        fail: ClassVar[bool] = True

        def step(self, closure=None):
            if self.fail:
                raise OSError("full")
            return super().step(closure)

    torch.manual_seed(4)
    model = nn.Linear(3, 2)
    before = [p.detach().clone() for p in model.parameters()]
    one = linear_learner(pairs(), FailOnce(model.parameters(), lr=0.1), model=model, lr=None)
    one.engine = one.train.engine = fp16()
    with pytest.raises(OSError, match="full"):
        one.fit(1)
    FailOnce.fail = False
    one.fit(1, callbacks=[ClipGradients(norm=1.0)])
    assert one.steps == 3
    assert max((p - q).abs().max().item() for p, q in zip(model.parameters(), before, strict=True)) <= 0.3  # 3 steps


def test_step_without_gradients_under_loss_scale():
    """The loss scale rejects such a step; without a loss scale, it is a step that changes nothing."""

    def fitted(engine):
        torch.manual_seed(4)
        model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
        one = linear_learner(pairs(), torch.optim.SGD(model[1].parameters(), lr=0.1), model=model, lr=None)
        one.engine = one.train.engine = engine
        one.fit(2, callbacks=[Freeze("1.*", until_epoch=1), ClipGradients(norm=5.0), recorder := Recorder("grad_norm")])
        return one, recorder.values["grad_norm"]

    (half, norms), (full, expected) = fitted(fp16()), fitted(Engine("cpu"))
    assert half.steps == full.steps == 6
    assert norms[:3] == expected[:3] == [0.0, 0.0, 0.0]
    assert norms[3:] == pytest.approx(expected[3:], rel=8 * HALF)  # a few roundings
    torch.testing.assert_close(half.model[1].weight, full.model[1].weight, rtol=0, atol=8 * HALF)


@pytest.mark.parametrize("kind", ["Recorder", "CSV"])
def test_error_in_first_backward_pass_is_not_replaced_by_one_of_recorder(kind, tmp_path):
    log = CSV(tmp_path / "log.csv", every=1, values=["grad_norm"])
    recorder = log if kind == "CSV" else Recorder("grad_norm")
    one = linear_learner(pairs())
    one.engine = one.train.engine = fp16()
    with pytest.raises(ArgumentError, match="all parameters are frozen"):
        one.fit(1, callbacks=[Freeze("*"), recorder])
