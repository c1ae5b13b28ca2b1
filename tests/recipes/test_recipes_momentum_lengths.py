"""Momentum with lr in the buffer, averaging lengths, and invalid arguments of the conversions."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from stages_support import few, noise, stepped, tensor

from dashpot.errors import ArgumentError
from dashpot.recipes import momentum_forms
from dashpot.recipes.momentum_forms import Point

POLES = st.floats(0.001, 0.999)
GRADIENTS = noise(20).tolist()


# ---- heavy ball with lr in the buffer --------------------------------------------------------------------------------


def slide(lrs, momentum, corrected):
    """Iterate v = momentum v + lr g, w = w - v; Goyal's correction rescales the buffer when lr changes."""
    v, w, path, last = 0.0, 0.0, [], lrs[0]
    for lr, g in zip(lrs, GRADIENTS, strict=False):
        if corrected:
            v *= momentum_forms.momentum_correction(lr, last)
        v = momentum * v + lr * g
        w, last = w - v, lr
        path.append(w)
    return path


def torch_form(lrs, momentum):
    p = torch.zeros(1, dtype=torch.float64)
    optimizer, path = torch.optim.SGD([p], lr=1.0, momentum=momentum), []
    for lr, g in zip(lrs, GRADIENTS, strict=False):
        optimizer.param_groups[0]["lr"] = lr
        path.append(stepped(optimizer, [p], [[tensor([g])]])[0][0].item())
    return path


def test_lr_in_the_buffer_equals_heavy_ball_only_for_a_constant_lr():
    constant, falling = [0.1] * 20, [0.1 * 0.9**t for t in range(20)]
    assert slide(constant, 0.9, corrected=False) == pytest.approx(torch_form(constant, 0.9), rel=1e-12)
    gap = max(abs(a - b) for a, b in zip(slide(falling, 0.9, False), torch_form(falling, 0.9), strict=True))
    assert gap > 0.01


@few
@given(st.lists(st.floats(0.01, 1), min_size=20, max_size=20), POLES)
def test_momentum_correction_matches_torch_for_a_varying_lr(lrs, momentum):
    assert slide(lrs, momentum, corrected=True) == pytest.approx(torch_form(lrs, momentum), rel=1e-9, abs=1e-9)


# ---- lengths and invalid arguments -----------------------------------------------------------------------------------


@few
@given(st.floats(1, 1e4))
def test_length_and_pole_are_inverse(length):
    assert momentum_forms.averaging_length(momentum_forms.pole_of_length(length)) == pytest.approx(length, rel=1e-10)


def test_length_one_disables_averaging():
    assert momentum_forms.pole_of_length(1) == 0
    assert momentum_forms.averaging_length(0.0) == 1


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: momentum_forms.ema(1.0), r"ema: beta must be a number in \[0, 1\), got 1.0"),
        (lambda: momentum_forms.heavy_ball(-0.1), r"heavy_ball: momentum must be a number in \[0, 1\), got -0.1"),
        (lambda: momentum_forms.heavy_ball(0.9, 1.5), r"heavy_ball: dampening must be a number in \[0, 1\], got 1.5"),
        (lambda: momentum_forms.nesterov(float("nan")), r"nesterov: momentum must be a number in \[0, 1\), got nan"),
        (lambda: momentum_forms.qhm(0.9, 1.1), r"qhm: nu must be a number in \[0, 1\], got 1.1"),
        (lambda: momentum_forms.to_ema(momentum_forms.nesterov(0.9)), r"to_ema: zero must be 0 for pole 0.9, got 0.47"),
        (
            lambda: momentum_forms.to_heavy_ball(Point(0.9, 0.5, 1.0)),
            r"to_heavy_ball: zero must be 0 for pole 0.9, got 0.5",
        ),
        (
            lambda: momentum_forms.to_nesterov(momentum_forms.ema(0.9)),
            r"to_nesterov: zero must be 0.473684 for pole 0.9, got 0.0",
        ),
        (lambda: momentum_forms.to_qhm(Point(0.0, 0.0, 1.0)), r"to_qhm: pole must be a number in \(0, 1\), got 0.0"),
        (lambda: momentum_forms.pole_of_length(0.5), r"pole_of_length: length must be a number in \[1, inf\), got 0.5"),
        (lambda: momentum_forms.averaging_length(1), r"averaging_length: pole must be a number in \[0, 1\), got 1"),
        (lambda: momentum_forms.autosgm_zero(0.4), r"autosgm_zero: pole must be a number in \[0.5, 1\), got 0.4"),
        (lambda: momentum_forms.momentum_correction(0.1, 0.0), r"previous_lr must be a number in \(0, inf\), got 0.0"),
        (
            lambda: momentum_forms.momentum_correction(-0.1, 0.1),
            r"momentum_correction: lr must be a number in \[0, inf\)",
        ),
    ],
)
def test_values_out_of_range_raise(call, sentence):
    with pytest.raises(ArgumentError, match=sentence):
        call()
