"""Equivalences between kinds of weight decay, and their fixed points."""

import pytest
import torch
from contracts.trajectories import assert_different_method, assert_same_method
from hypothesis import given, settings
from hypothesis import strategies as st

import dashpot as dp

POLES = st.floats(0.01, 0.99)
DRAWS = settings(max_examples=8)


@DRAWS
@given(decay=st.floats(0, 1), lr=st.floats(1e-3, 0.9))
def test_decays_coincide_without_filter_and_denominator(decay, lr):
    coupled = lambda p: dp.SGD(p, lr=lr, weight_decay=decay)  # noqa: E731
    assert_same_method(coupled, lambda p: dp.SGM(p, lr=lr, decay=dp.DecoupledDecay(decay)))
    assert_same_method(
        coupled, lambda p: dp.AutoSGM(p, lr=lr, adaptive=False, pole=0.0, decay="change", weight_decay=decay)
    )
    assert_same_method(coupled, lambda p: dp.AutoSGM(p, lr=lr, adaptive=False, pole=0.0, weight_decay=decay))


@DRAWS
@given(pole=POLES, decay=st.floats(0, 0.5))
def test_decay_levels_coincide_with_the_zero_on_the_pole(pole, decay):
    common = {"lr": 0.05, "adaptive": False, "pole": pole, "zero": pole, "debias": "exact", "weight_decay": decay}
    assert_same_method(
        lambda p: dp.AutoSGM(p, decay="coupled", **common),
        lambda p: dp.AutoSGM(p, decay="change", **common),
        tolerance=1e-11,
    )


def test_decay_levels_differ_with_momentum():
    """This is a negative control for the test above."""
    common = {"lr": 0.05, "adaptive": False, "weight_decay": 0.5}
    assert_different_method(
        lambda p: dp.AutoSGM(p, decay="coupled", **common), lambda p: dp.AutoSGM(p, decay="change", **common)
    )


CURVATURE = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)
FIXED_POINTS = {
    # the gradient is h (w - 1): gain h (w - 1) + strength w = 0 at w = gain h/(gain h + strength)
    "coupled, averaged": (lambda p: dp.SGM(p, 0.1, filter=dp.Filter(0.8), decay=dp.CoupledDecay(0.3)), 1, 0.3),
    "coupled, torch momentum": (lambda p: dp.HeavyBall(p, 0.02, 0.8, weight_decay=0.3), 1, 0.3),
    "change level": (
        lambda p: dp.AutoSGM(p, lr=0.1, adaptive=False, pole=0.8, decay="change", weight_decay=0.3),
        1,
        0.2 * 0.3,
    ),
    "change level with a zero": (
        lambda p: dp.AutoSGM(p, lr=0.1, adaptive=False, pole=0.8, zero=0.5, decay="change", weight_decay=0.3),
        1,
        0.4 * 0.3,
    ),
    "rate-scaled, unit gain": (
        lambda p: dp.SGM(p, 0.1, filter=dp.Filter(0.8), decay=dp.DecoupledDecay(0.3)),
        1,
        0.3,
    ),
    "rate-scaled, torch momentum": (
        lambda p: dp.SGM(p, 0.02, filter=dp.Filter(0.8, gain=1.0, normalise="none"), decay=dp.DecoupledDecay(0.3)),
        5,
        0.3,
    ),
}


@pytest.mark.parametrize("name", FIXED_POINTS)
def test_fixed_points_of_constant_decay(name):
    build, gain, strength = FIXED_POINTS[name]
    w = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    optimizer = build([w])
    for _ in range(450):
        w.grad = CURVATURE * (w.detach() - 1)
        optimizer.step()
    expected = gain * CURVATURE / (gain * CURVATURE + strength)
    torch.testing.assert_close(w.detach(), expected, rtol=1e-9, atol=0)  # the slowest mode shrinks by a factor of 0.95


def test_decay_is_not_applied_without_a_gradient():
    w = torch.ones(2, dtype=torch.float64, requires_grad=True)
    dp.AdamW([w], lr=0.1, weight_decay=0.5).step()
    assert torch.equal(w, torch.ones(2, dtype=torch.float64))
