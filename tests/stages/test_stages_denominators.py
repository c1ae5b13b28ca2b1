"""Denominators against elementwise loops over Python floats."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from stages_support import directions, few, noise, signals, tensor

from dashpot import CenteredMoment, Filter, SecondMoment
from dashpot.stages.at_zero import over

BETAS = st.floats(0, 0.999)
EPS = st.floats(1e-10, 1e-2)
GRADIENTS = noise(15).tolist()
# Float64 sums of fifteen terms; a debias of 1/(1 - 0.999) magnifies rounding a thousandfold.
CLOSE = {"rtol": 1e-10, "atol": 1e-12}


def close(actual, expected):
    torch.testing.assert_close(actual, tensor(expected), **CLOSE)


def averages(values, beta, kind):
    """Return the running averages of a sequence, with the formulas of the sources."""
    s, out = 0.0, []
    for t, x in enumerate(values, start=1):
        if kind == "running":
            n = min(t, 1 / (1 - beta))
            s = (1 - 1 / n) * s + x / n
        elif kind == "first" and t == 1:
            s = x
        else:
            s = beta * s + (1 - beta) * x
        out.append(s / (1 - beta**t) if kind == "debiased" else s)
    return out


def squares(beta, kind):
    return averages([g * g for g in GRADIENTS], beta, kind)


def check_variance(x, numerators, variances, eps, inside):
    """Compare variances of size 1 instead of roots: the root of a difference that nearly cancels is inaccurate."""
    d = torch.stack([item.d for item in x])
    torch.testing.assert_close(d * d - eps if inside else (d - eps) ** 2, tensor(variances), rtol=0, atol=1e-12)
    assert (d >= (math.sqrt(eps) if inside else eps) * (1 - 1e-15)).all()
    close(torch.stack([item.v for item in x]) * d, numerators)


# ---- rows of the table -----------------------------------------------------------------------------------------------


@few
@given(BETAS, EPS)
def test_rmsprop_with_bias_correction(beta, eps):
    """This is the form in the blog: g/(sqrt(s^) + eps)."""
    expected = [g / (math.sqrt(s) + eps) for g, s in zip(GRADIENTS, squares(beta, "debiased"), strict=True)]
    close(directions([SecondMoment(beta, eps)], GRADIENTS), expected)


@few
@given(BETAS, EPS)
def test_torch_rmsprop_has_no_bias_correction(beta, eps):
    expected = [g / (math.sqrt(s) + eps) for g, s in zip(GRADIENTS, squares(beta, "plain"), strict=True)]
    close(directions([SecondMoment(beta, eps, average="plain")], GRADIENTS), expected)


@few
@given(BETAS, EPS)
def test_rmsprop_initialized_with_the_first_square(beta, eps):
    """This is the form in the notebook: s_1 = g_1^2."""
    expected = [g / (math.sqrt(s) + eps) for g, s in zip(GRADIENTS, squares(beta, "first"), strict=True)]
    close(directions([SecondMoment(beta, eps, average="first")], GRADIENTS), expected)


@few
@given(BETAS, EPS)
def test_torch_centred_rmsprop(beta, eps):
    rows = zip(squares(beta, "plain"), averages(GRADIENTS, beta, "plain"), strict=True)
    x = signals([CenteredMoment(beta, eps, average="plain", uncentered_steps=0)], GRADIENTS)
    check_variance(x, GRADIENTS, [s - a * a for s, a in rows], eps, inside=False)


@few
@given(BETAS, EPS, st.floats(0, 0.95))
def test_rmsprop_momentum_is_a_heavy_ball_after_the_division(beta, eps, momentum):
    b, expected = 0.0, []
    for g, s in zip(GRADIENTS, squares(beta, "plain"), strict=True):
        b = momentum * b + g / (math.sqrt(s) + eps)
        expected.append(b)
    stages = [SecondMoment(beta, eps, average="plain"), Filter(momentum, gain=1.0, normalise="none")]
    close(directions(stages, GRADIENTS), expected)


@few
@given(BETAS, BETAS, EPS)
def test_adam(beta1, beta2, eps):
    rows = zip(averages(GRADIENTS, beta1, "debiased"), squares(beta2, "debiased"), strict=True)
    close(directions([Filter(beta1), SecondMoment(beta2, eps)], GRADIENTS), [m / (math.sqrt(s) + eps) for m, s in rows])


@few
@given(BETAS, BETAS, EPS, st.sampled_from(["debiased", "plain"]))
def test_adam_with_eps_inside_the_root(beta1, beta2, eps, kind):
    """In sqrt(s + eps), the notebook corrects s; the lecture notes' first form and the blog's formula do not."""
    rows = zip(averages(GRADIENTS, beta1, kind), squares(beta2, kind), strict=True)
    stages = [
        Filter(beta1, normalise="exact" if kind == "debiased" else "none"),
        SecondMoment(beta2, eps, eps_mode="inside", average=kind),
    ]
    close(directions(stages, GRADIENTS), [m / math.sqrt(s + eps) for m, s in rows])


@few
@given(st.floats(1, 30), st.floats(1, 30), EPS)
def test_lecture_notes_adam_uses_running_averages(n_g, n_s, eps):
    beta1, beta2 = 1 - 1 / n_g, 1 - 1 / n_s
    rows = zip(averages(GRADIENTS, beta1, "running"), squares(beta2, "running"), strict=True)
    stages = [Filter(beta1, normalise="running"), SecondMoment(beta2, eps, average="running")]
    close(directions(stages, GRADIENTS), [m / (math.sqrt(s) + eps) for m, s in rows])


@few
@given(BETAS, BETAS, EPS, st.integers(0, 16), st.sampled_from(["outside", "inside"]))
def test_centred_adam_with_guard_and_clamp(beta1, beta2, eps, guard, eps_mode):
    """The denominator is sqrt(max(s^ - m^^2, 0)) with eps outside or inside; the mean is ignored while t < guard."""
    means = averages(GRADIENTS, beta1, "debiased")
    rows = enumerate(zip(means, squares(beta2, "debiased"), strict=True), start=1)
    variances = [max(s - m * m, 0) if t >= guard else s for t, (m, s) in rows]
    x = signals(
        [Filter(beta1), CenteredMoment(beta2, eps, eps_mode, mean="direction", uncentered_steps=guard)], GRADIENTS
    )
    check_variance(x, means, variances, eps, inside=eps_mode == "inside")


@few
@given(BETAS, st.floats(1e-3, 1))
def test_variance_power_divides_by_the_variance(beta, eps):
    """The step g/(sigma^2 + eps) follows from a noise analysis."""
    means = averages(GRADIENTS, beta, "debiased")
    rows = zip(GRADIENTS, squares(beta, "debiased"), means, strict=True)
    expected = [g / (max(s - a * a, 0) + eps) for g, s, a in rows]
    close(directions([CenteredMoment(beta, eps, power="variance", uncentered_steps=0)], GRADIENTS), expected)


@few
@given(BETAS, EPS)
def test_autosgm_adds_eps_to_the_signed_gradient_and_after_the_root(beta, eps):
    moved = averages([(g + eps) ** 2 for g in GRADIENTS], beta, "debiased")
    expected = [g / (math.sqrt(s) + eps) for g, s in zip(GRADIENTS, moved, strict=True)]
    close(directions([SecondMoment(beta, eps, "gradient")], GRADIENTS), expected)


@few
@given(BETAS, EPS, st.floats(0, 1))
def test_weight_of_the_current_square(beta, eps, nu):
    """The denominator of QHAdam is sqrt((1 - nu) g^2 + nu s^) + eps."""
    rows = zip(GRADIENTS, squares(beta, "debiased"), strict=True)
    expected = [g / (math.sqrt((1 - nu) * g * g + nu * s) + eps) for g, s in rows]
    close(directions([SecondMoment(beta, eps, nu=nu)], GRADIENTS), expected)


@few
@given(BETAS, EPS, st.floats(0.01, 10))
def test_scale_multiplies_the_mean_square(beta, eps, scale):
    expected = [g / (math.sqrt(scale * s) + eps) for g, s in zip(GRADIENTS, squares(beta, "plain"), strict=True)]
    close(directions([SecondMoment(beta, eps, average="plain", scale=scale)], GRADIENTS), expected)


@pytest.mark.parametrize("kind", ["debiased", "plain", "first", "running"])
@few
@given(beta=st.floats(0, 0.99))
def test_centred_mean_uses_the_average_of_the_square(kind, beta):
    """Both moments use the same kind of average, so that only rounding errors can make the variance negative."""
    values = [g + 3 for g in GRADIENTS]
    means, mean_squares = averages(values, beta, kind), averages([g * g for g in values], beta, kind)
    expected = [g / (max(s - a * a, 0) + 0.1) for g, s, a in zip(values, mean_squares, means, strict=True)]
    close(directions([CenteredMoment(beta, 0.1, average=kind, power="variance", uncentered_steps=0)], values), expected)


# ---- eps -------------------------------------------------------------------------------------------------------------


def test_eps_inside_acts_as_a_floor_of_its_root():
    """For a vanishing gradient, d is sqrt(eps) with eps inside the root and eps with eps outside."""
    tiny = [1e-12]
    inside = directions([SecondMoment(0.9, 1e-6, "inside")], tiny).item()
    outside = directions([SecondMoment(0.9, 1e-6)], tiny).item()
    assert inside == pytest.approx(1e-12 / 1e-3, rel=1e-6)
    assert outside == pytest.approx(1e-12 / 1e-6, rel=1e-5)


@pytest.mark.parametrize("mode", ["outside", "inside", "gradient"])
@pytest.mark.parametrize("average", ["debiased", "plain", "first", "running"])
def test_zero_eps_with_zero_gradients_returns_a_zero_direction(mode, average):
    out = directions([SecondMoment(0.9, 0.0, mode, average)], [[0.0, 1.0], [0.0, -2.0]])
    assert out[:, 0].tolist() == [0.0, 0.0]
    assert torch.isfinite(out).all()


def test_zero_eps_centred_is_zero_only_for_a_zero_direction():
    """0/0 is 0, and x/0 is infinite unless prevented by uncentered_steps or eps."""
    stage = CenteredMoment(0.9, 0.0, uncentered_steps=0, average="first")
    out = directions([stage], [[0.0, 1.0]])
    assert out.tolist() == [[0.0, math.inf]]


def test_over_preserves_the_sign_of_zero_and_nan():
    v, d = tensor([0.0, -0.0, 1.0, math.nan, 0.0]), tensor([0.0, 0.0, 2.0, 1.0, math.nan])
    out = over(v, d)
    assert torch.equal(out[:3], tensor([0.0, -0.0, 0.5]))
    assert math.copysign(1, out[1].item()) == -1
    assert math.isnan(out[3].item())
    assert out[4].item() == 0


# ---- the guard and the clamp of the centred denominator --------------------------------------------------------------


def test_uncentered_steps_prevent_a_huge_first_step():
    unguarded = directions([Filter(0.9), CenteredMoment(mean="direction", uncentered_steps=0)], [[2.0]])
    guarded = directions([Filter(0.9), CenteredMoment(mean="direction")], [[2.0]])
    assert unguarded.item() == pytest.approx(2.0 / 1e-8)
    assert guarded.item() == pytest.approx(1.0, rel=1e-7)


def test_centring_starts_at_the_given_step():
    """With uncentered_steps = 3, the mean is ignored at t = 1, 2 and subtracted at t = 3."""
    plain = directions([SecondMoment(0.9)], GRADIENTS[:4])
    guarded = directions([CenteredMoment(0.9, uncentered_steps=3)], GRADIENTS[:4])
    torch.testing.assert_close(guarded[:2], plain[:2], rtol=1e-14, atol=0)
    assert (guarded[2:].abs() > plain[2:].abs() * 1.001).all()


def test_variance_with_different_poles_is_clamped_at_zero():
    """The mean covers only the last gradient, but the mean square covers many gradients: s^ - m^^2 < 0, so d = eps."""
    gradients = [0.1] * 5 + [1.0]
    out = directions([Filter(0.0), CenteredMoment(0.999, 0.5, mean="direction", uncentered_steps=0)], gradients)
    s = averages([g * g for g in gradients], 0.999, "debiased")[-1]
    assert s - 1.0 < 0
    assert out[-1].item() == 1.0 / 0.5


# ---- state and signal ------------------------------------------------------------------------------------------------


def test_slots():
    assert [slot.key for slot in SecondMoment().slots] == ["exp_avg_sq"]
    assert [slot.key for slot in SecondMoment(slot="square_avg").slots] == ["square_avg"]
    assert [slot.key for slot in CenteredMoment().slots] == ["exp_avg_sq", "grad_avg"]
    assert [slot.key for slot in CenteredMoment(mean="direction").slots] == ["exp_avg_sq"]


def test_denominators_square_the_gradient_and_multiply():
    x = signals([Filter(0.9, gain=1.0, normalise="none"), SecondMoment(0.0, 0.0)], [3.0, 4.0])
    assert [s.d.item() for s in x] == [3.0, 4.0]
    twice = signals([SecondMoment(0.0, 0.0), SecondMoment(0.0, 0.0, slot="second")], [3.0])[0]
    assert (twice.d.item(), twice.v.item()) == (9.0, pytest.approx(1 / 3))
