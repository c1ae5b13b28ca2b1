"""Gradient clipping: comparison with golden cases and torch, and order relative to other callbacks."""

from __future__ import annotations

import math

import golden_data as golden
import pytest
import torch
from learner_support import learner, same, weights
from torch import nn

import dashpot as dp
from dashpot.errors import ArgumentError
from dashpot.training import Callback
from dashpot.training.callbacks.accumulate import Accumulate
from dashpot.training.callbacks.clip_gradients import ClipGradients
from dashpot.training.callbacks.recorder import Recorder

CASES = golden.load("clipping")["cases"]


class LearnerStub:
    """Stub with given gradients and the attributes of a learner that clipping uses."""

    def __init__(self, gradients):
        self.params = []
        for gradient in gradients:
            p = nn.Parameter(torch.zeros(0 if gradient is None else gradient.shape, dtype=torch.float64))
            p.grad = gradient
            self.params.append(p)
        self.opt = torch.optim.SGD(self.params, lr=0.1) if self.params else None
        self.engine, self.unscaled, self.grad_norm = self, 0, None

    def unscale(self, _):
        self.unscaled += 1


def clipped(gradients, **options):
    """Return the clipped gradients and the norm before clipping."""
    stub, clip, stepped = LearnerStub(gradients), ClipGradients(**options), []
    clip.step(stub, lambda: stepped.append([p.grad for p in stub.params]))
    assert len(stepped) == stub.unscaled == 1
    return stepped[0], clip.last_norm


def tensor(values, shape):
    return torch.tensor(values, dtype=torch.float64).reshape(shape)


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"max={c['max_norm']}-p={c['norm_type']}")
def test_clipping_matches_golden_case(case):
    """The tolerance of 1e-14 allows for a square root and a product in float64."""
    gradients = [tensor(g, shape) for g, shape in zip(case["grads"], case["shapes"], strict=True)]
    found, norm = clipped(gradients, norm=case["max_norm"], norm_type=float(case["norm_type"]))
    assert norm.item() == pytest.approx(case["total_norm"], rel=1e-14)
    for got, want in zip(found, case["clipped"], strict=True):
        torch.testing.assert_close(got.flatten(), tensor(want, -1), rtol=1e-14, atol=0)


def test_golden_cases_are_complete():
    assert len(CASES) == 16


def test_clipping_by_value_and_by_both():
    gradient = torch.tensor([-3.0, 0.5, 4.0], dtype=torch.float64)
    [found], norm = clipped([gradient.clone()], value=1.0)
    assert (found.tolist(), norm) == ([-1.0, 0.5, 1.0], None)
    [found], norm = clipped([gradient.clone()], norm=2.0, value=1.0)  # by norm, then by value
    factor = 2.0 / (norm.item() + 1e-6)
    assert found.tolist() == pytest.approx([-1.0, 0.5 * factor, 1.0])


def test_missing_nonfinite_and_small_gradients():
    assert clipped([None, tensor([1.0, 1.0], 2)], norm=10.0)[1].item() == pytest.approx(math.sqrt(2))
    [infinite], norm = clipped([tensor([1.0, math.inf], 2)], norm=1.0)
    assert norm.item() == math.inf
    assert infinite[0] == 0
    assert infinite[1].isnan()
    assert clipped([tensor([1.0, math.nan], 2)], norm=1.0)[0][0].isnan().all()
    assert clipped([tensor([1.0, math.nan, -math.inf], 3)], value=1.0)[0][0].tolist()[::2] == [1.0, -1.0]
    [unchanged], _ = clipped([tensor([0.3, 0.4], 2)], norm=1.0)
    assert unchanged.tolist() == [0.3, 0.4]


def test_norm_without_gradients_is_zero():
    class Frozen(Callback):
        def after_backward(self, learner):
            learner.opt.zero_grad()

    clip = ClipGradients(norm=1.0, value=1.0)
    learner(torch.optim.SGD, callbacks=[Frozen(), clip]).fit(1)
    assert clip.last_norm.item() == 0


def fitted(make, callbacks):
    torch.manual_seed(3)
    subject = learner(make, 0.1, callbacks=callbacks)
    subject.fit(2)
    return subject


@pytest.mark.parametrize("norm_type", [1.0, 2.0, 3.5, math.inf])
def test_clipping_matches_torch(norm_type):
    norms = []

    class ByHand(Callback):
        def step(self, learner, proceed):
            norms.append(nn.utils.clip_grad_norm_(learner.model.parameters(), 0.3, norm_type).item())
            nn.utils.clip_grad_value_(learner.model.parameters(), 0.1)
            proceed()

    class Norms(Callback):
        order = 20

        def step(self, learner, proceed):
            found.append(clip.last_norm.item())
            proceed()

    found, clip = [], ClipGradients(norm=0.3, value=0.1, norm_type=norm_type)
    ours = fitted(torch.optim.AdamW, [clip, Norms()])
    assert same(weights(ours), weights(fitted(torch.optim.AdamW, [ByHand()])))
    assert found == norms
    assert min(norms) > 0.3


def test_clipping_matches_max_norm_of_the_optimizer():
    """The results are equal up to rounding, because the optimizer applies the factor within its step."""
    inside = fitted(lambda params, lr: dp.SGD(params, lr=lr, max_norm=0.3), [])
    outside = fitted(dp.SGD, [ClipGradients(norm=0.3)])
    for a, b in zip(weights(inside), weights(outside), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_accumulated_gradients_are_clipped_once_per_step():
    calls = []

    class Counted(ClipGradients):
        def step(self, learner, proceed):
            super().step(learner, lambda: (calls.append(self._after(learner)), proceed()))

        def _after(self, learner):
            return nn.utils.get_total_norm([p.grad for p in learner.model.parameters()]).item()

    recorder = Recorder("grad_norm")
    subject = learner(torch.optim.SGD, callbacks=[Counted(norm=1e-2), Accumulate(2), recorder])
    subject.fit(2)
    assert len(calls) == subject.steps == 4
    assert calls == pytest.approx([1e-2] * 4, rel=1e-3)  # the norm is about 1, plus 1e-6
    assert min(recorder.values["grad_norm"]) > 0.1  # before clipping


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({}, "norm or value must be given"),
        ({"norm": 0}, "norm must be None or a number in (0, inf)"),
        ({"norm": math.nan}, "norm must be None or a number in (0, inf)"),
        ({"value": -1.0}, "value must be None or a number in (0, inf)"),
        ({"norm": "1"}, "norm must be None or a number in (0, inf)"),
        ({"norm": 1.0, "norm_type": 0}, "norm_type must be a positive number or infinity, got 0"),
        ({"norm": 1.0, "norm_type": "inf"}, "norm_type must be a positive number or infinity, got 'inf'"),
    ],
)
def test_invalid_arguments_are_rejected(options, sentence):
    with pytest.raises(ArgumentError) as caught:
        ClipGradients(**options)
    assert sentence in str(caught.value)
