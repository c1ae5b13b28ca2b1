"""Momentum methods, as given in their sources, against the filter with converted parameters; inverse conversions."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from stages_support import directions, few, noise, stepped, tensor

from dashpot.recipes import momentum_forms
from dashpot.recipes.momentum_forms import Point
from dashpot.stages import Filter

POLES = st.floats(0.001, 0.999)
FRACTIONS = st.floats(0, 1)
GRADIENTS = noise(20).tolist()
# Sums of twenty terms in float64, with gains of up to 1000.
CLOSE = {"rtol": 1e-11, "atol": 1e-11}


def at(point):
    """Return the directions of the plain linear filter for the gradients above; `point` is its parameters."""
    return directions([Filter(*point, normalise="none")], GRADIENTS)


def close(actual, expected):
    torch.testing.assert_close(actual, tensor(expected), **CLOSE)


# ---- all rows of the table against a loop with the formulas of the method --------------------------------------------


def test_plain_gradient():
    assert at(Point(0.0, 0.0, 1.0)).tolist() == GRADIENTS


@few
@given(POLES)
def test_averaged_momentum(beta):
    m, expected = 0.0, []
    for g in GRADIENTS:
        m = beta * m + (1 - beta) * g
        expected.append(m)
    close(at(momentum_forms.ema(beta)), expected)


@few
@given(POLES)
def test_heavy_ball(momentum):
    v, expected = 0.0, []
    for g in GRADIENTS:
        v = momentum * v + g
        expected.append(v)
    close(at(momentum_forms.heavy_ball(momentum)), expected)


@few
@given(POLES, FRACTIONS)
def test_dampening_adds_a_transient_of_the_first_gradient(momentum, dampening):
    v, expected = GRADIENTS[0], [GRADIENTS[0]]
    for g in GRADIENTS[1:]:
        v = momentum * v + (1 - dampening) * g
        expected.append(v)
    transient = [dampening * momentum**t * GRADIENTS[0] for t in range(len(GRADIENTS))]
    close(at(momentum_forms.heavy_ball(momentum, dampening)) + tensor(transient), expected)


def test_dampening_equal_to_momentum_differs_from_ema():
    """The filter gives the same directions except for the contribution of the undampened first gradient."""
    assert momentum_forms.heavy_ball(0.9, dampening=0.9) == pytest.approx(momentum_forms.ema(0.9))
    p = torch.zeros(1, dtype=torch.float64)
    torch_sgd = torch.optim.SGD([p], lr=1.0, momentum=0.9, dampening=0.9)
    first = -stepped(torch_sgd, [p], [[tensor([GRADIENTS[0]])]])[0][0].item()
    assert first == GRADIENTS[0]
    assert at(momentum_forms.ema(0.9))[0].item() == pytest.approx(0.1 * GRADIENTS[0])


@few
@given(POLES)
def test_nesterov_matches_torch(momentum):
    v, expected = 0.0, []
    for g in GRADIENTS:
        v = momentum * v + g
        expected.append(g + momentum * v)
    close(at(momentum_forms.nesterov(momentum)), expected)


@few
@given(st.floats(0.1, 0.95), st.floats(0.01, 0.2))
def test_nesterov_look_ahead_form_has_the_same_filter(momentum, lr):
    """On a quadratic: v = momentum v - lr g(w + momentum v), w = w + v. The stored weight is the look-ahead point."""
    curvature, w, v, ahead = 1.5, 2.0, 0.0, []
    for _ in range(10):
        v = momentum * v - lr * curvature * (w + momentum * v)
        w = w + v
        ahead.append(w + momentum * v)
    point, ours, seen = momentum_forms.nesterov(momentum), [], []
    x = 2.0
    for _ in range(10):
        seen.append(curvature * x)
        x = 2.0 - lr * directions([Filter(*point, normalise="none")], seen).sum().item()
        ours.append(x)
    assert ours == pytest.approx(ahead, rel=1e-10, abs=1e-10)


@few
@given(POLES, FRACTIONS)
def test_quasi_hyperbolic_momentum(beta, nu):
    m, expected = 0.0, []
    for g in GRADIENTS:
        m = beta * m + (1 - beta) * g
        expected.append((1 - nu) * g + nu * m)
    close(at(momentum_forms.qhm(beta, nu)), expected)


@few
@given(POLES)
def test_quasi_hyperbolic_special_points(beta):
    """nu = 1 gives averaged momentum, nu = beta gives Nesterov's zero, and nu = 0 gives plain gradients."""
    assert momentum_forms.qhm(beta, 1.0) == pytest.approx(momentum_forms.ema(beta), rel=1e-13)
    point, nesterov = momentum_forms.qhm(beta, beta), momentum_forms.nesterov(beta)
    assert point.zero == pytest.approx(nesterov.zero, rel=1e-13)
    assert point.gain == pytest.approx((1 - beta) * nesterov.gain, rel=1e-12)
    close(at(momentum_forms.qhm(beta, 0.0)), GRADIENTS)


def test_recommended_quasi_hyperbolic_point_of_esgd():
    point = momentum_forms.qhm(0.999, 0.7)
    assert (point.zero, point.gain) == (pytest.approx(0.99667, abs=5e-6), pytest.approx(0.3007, abs=5e-5))


def test_autosgm_zero():
    """For beta 0.9, the zero is 0.5528, the unit gain sqrt((1-beta)/2), and nu = (1 - sqrt((1-beta)/2))/beta."""
    zero = momentum_forms.autosgm_zero(0.9)
    point = Point(0.9, zero, math.sqrt(0.05))
    assert zero == pytest.approx(0.5528, abs=5e-5)
    assert point.dc_gain == pytest.approx(1, rel=1e-14)
    assert momentum_forms.to_qhm(point) == pytest.approx((0.9, (1 - math.sqrt(0.05)) / 0.9, 1.0), rel=1e-13)


@few
@given(st.floats(0.5, 0.99))
def test_autosgm_zero_noise_gain(pole):
    """For the filter with unit DC gain, the sum of h_k^2 is (1 - pole)(1 + zero)/(1 + pole)."""
    zero = momentum_forms.autosgm_zero(pole)
    gain = (1 - pole) / (1 - zero)
    taps = gain**2 * (1 + (pole - zero) ** 2 / (1 - pole**2))  # the sum of the geometric series of h_k^2
    assert taps == pytest.approx((1 - pole) * (1 + zero) / (1 + pole), rel=1e-10)


def weights(pole, zero):
    """Return the impulse response of the filter with unit DC gain, truncated at 1e-18."""
    gain = (1 - pole) / (1 - zero)
    return [gain, *(gain * (pole - zero) * pole**k for k in range(int(42 / -math.log(pole))))]


def noise_gain(pole, zero):
    return math.fsum(h * h for h in weights(pole, zero))


def test_autosgm_zero_has_a_higher_noise_gain_than_nesterov_and_heavy_ball():
    gains = [noise_gain(0.9, zero) for zero in (momentum_forms.autosgm_zero(0.9), 0.9 / 1.9, 0.0, -1.0)]
    assert gains == pytest.approx([0.0817, 0.0706, 0.0526, 0.05], abs=5e-5)


ZEROS = [k / 1000 - 3 for k in range(3900)]  # -3 to 0.899


@pytest.mark.parametrize("pole", [0.5, 0.9, 0.99])
def test_autosgm_zero_has_the_least_ratio_of_noise_gain_to_first_weight(pole):
    zero = momentum_forms.autosgm_zero(pole)
    found = noise_gain(pole, zero) / weights(pole, zero)[0]
    others = [noise_gain(pole, z) / weights(pole, z)[0] for z in ZEROS[::40]]
    assert found <= min(others)
    # the zeros are 0.04 apart, and the ratio is flat at the minimum
    assert min(others) == pytest.approx(found, rel=0.02 if pole < 0.99 else 0.5)


@pytest.mark.parametrize("pole", [0.5, 0.9, 0.99])
def test_zero_of_least_noise_gain_is_minus_one(pole):
    assert min(ZEROS[::40], key=lambda z: noise_gain(pole, z)) == pytest.approx(-1, abs=1e-9)
    assert noise_gain(pole, -1.0) == pytest.approx((1 - pole) / 2, rel=1e-12)


# ---- inverse conversions ---------------------------------------------------------------------------------------------


@few
@given(st.floats(0, 0.999))
def test_ema_and_heavy_ball_differ_by_a_factor_on_lr(pole):
    assert momentum_forms.to_ema(momentum_forms.ema(pole)) == pytest.approx((pole, 1.0), rel=1e-13)
    assert momentum_forms.to_heavy_ball(momentum_forms.heavy_ball(pole)) == (pole, 1.0)
    assert momentum_forms.to_ema(momentum_forms.heavy_ball(pole)) == pytest.approx((pole, 1 / (1 - pole)), rel=1e-13)
    assert momentum_forms.to_heavy_ball(momentum_forms.ema(pole)) == pytest.approx((pole, 1 - pole), rel=1e-13)


@few
@given(POLES, st.floats(0, 0.99))
def test_dampened_heavy_ball_equals_heavy_ball_with_scaled_lr(pole, dampening):
    momentum, factor = momentum_forms.to_heavy_ball(momentum_forms.heavy_ball(pole, dampening))
    assert (momentum, factor) == (pole, 1 - dampening)


@few
@given(st.floats(0, 0.999))
def test_nesterov_round_trip(pole):
    assert momentum_forms.to_nesterov(momentum_forms.nesterov(pole)) == pytest.approx((pole, 1.0), rel=1e-13)


@few
@given(POLES, FRACTIONS)
def test_qhm_round_trip(beta, nu):
    back = momentum_forms.to_qhm(momentum_forms.qhm(beta, nu))
    # 1 - nu beta loses up to three digits at beta = 0.999, and nu/beta three more at beta = 0.001.
    assert back == pytest.approx((beta, nu, 1.0), rel=1e-9, abs=1e-9)


@few
@given(POLES, FRACTIONS, st.floats(0.01, 10))
def test_zeros_up_to_the_pole_are_qhm_points(pole, share, gain):
    zero = share * pole
    beta, nu, factor = momentum_forms.to_qhm(Point(pole, zero, gain))
    again = momentum_forms.qhm(beta, min(nu, 1.0))  # rounding errors can make nu exceed 1
    assert again.zero == pytest.approx(zero, abs=1e-9)
    assert again.gain * factor == pytest.approx(gain, rel=1e-9)


@few
@given(POLES)
def test_nesterov_and_qhm_are_equivalent(beta):
    assert momentum_forms.to_qhm(momentum_forms.nesterov(beta)) == pytest.approx((beta, beta, 1 / (1 - beta)), rel=1e-9)
    assert momentum_forms.to_nesterov(momentum_forms.qhm(beta, beta)) == pytest.approx((beta, 1 - beta), rel=1e-9)


@few
@given(POLES, FRACTIONS, st.floats(0.1, 3))
def test_factor_multiplies_lr(beta, nu, gain):
    """Check that a filter and its QHM form, with lr multiplied by the factor, give the same directions."""
    start = Point(beta, momentum_forms.qhm(beta, nu).zero, gain)
    back_beta, back_nu, factor = momentum_forms.to_qhm(start)
    point = momentum_forms.qhm(back_beta, min(max(back_nu, 0.0), 1.0))
    close(factor * at(point), at(start).tolist())


@pytest.mark.parametrize(
    ("point", "gain"),
    [
        (momentum_forms.ema(0.9), 1.0),
        (momentum_forms.heavy_ball(0.9), 10.0),
        (momentum_forms.heavy_ball(0.9, dampening=0.5), 5.0),
        (momentum_forms.nesterov(0.9), 10.0),
        (momentum_forms.qhm(0.9, 0.3), 1.0),
        (Point(0.0, 0.0, 1.0), 1.0),
    ],
)
def test_dc_gain_is_the_limit_of_the_step_response(point, gain):
    """Compare the formula with the output for a constant gradient after 400 steps (0.9^400 is 5e-19)."""
    assert point.dc_gain == pytest.approx(gain, rel=1e-13)
    last = directions([Filter(*point, normalise="none")], [1.0] * 400)[-1].item()
    assert last == pytest.approx(gain, rel=1e-12)
