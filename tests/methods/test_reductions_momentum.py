"""Forms of momentum as one filter: each row of the mapping table, tested with two runs on the same gradients."""

import math

import pytest
import torch
from contracts.trajectories import assert_same_method, distance, gradient, parameters, run
from hypothesis import given, settings
from hypothesis import strategies as st

import dashpot as dp
from dashpot.recipes import momentum_forms

SAME = 1e-12
"""Tolerance in float64; both sides use the same arithmetic in a different order."""
POLES = st.floats(0.01, 0.99)
DRAWS = settings(max_examples=8)


def filtered(lr=0.05, **filter_settings):
    return lambda params: dp.SGM(params, lr=lr, filter=dp.Filter(**filter_settings))


@DRAWS
@given(beta=POLES)
def test_qhm_with_nu_equal_to_beta_equals_nag_with_scaled_lr(beta):
    assert_same_method(
        lambda p: dp.QHM(p, lr=0.1, pole=beta, nu=beta),
        lambda p: dp.NAG(p, lr=0.1 * (1 - beta), pole=beta),
        tolerance=1e-11,  # pole and zero are rounded separately, which causes a relative 1e-16/(1 - beta) per step
    )


@DRAWS
@given(beta=POLES)
def test_qhm_with_nu_one_equals_averaged_momentum(beta):
    assert_same_method(lambda p: dp.QHM(p, lr=0.1, pole=beta, nu=1.0), filtered(lr=0.1, pole=beta, normalise="none"))


@DRAWS
@given(beta=POLES)
def test_qhm_with_nu_zero_equals_sgd(beta):
    assert_same_method(lambda p: dp.QHM(p, lr=0.1, pole=beta, nu=0.0), lambda p: dp.SGD(p, lr=0.1))


@DRAWS
@given(beta=POLES, nu=st.floats(0, 1))
def test_qhm_equals_the_pole_zero_filter(beta, nu):
    """The filter, with zero (1 - nu) beta/(1 - nu beta) and gain 1 - nu beta, also equals the definition of QHM."""
    point = momentum_forms.qhm(beta, nu)
    assert_same_method(
        lambda p: dp.QHM(p, lr=0.1, pole=beta, nu=nu),
        filtered(lr=0.1, pole=point.pole, zero=point.zero, gain=point.gain, normalise="none"),
        tolerance=1e-11,
    )
    params = parameters()
    expected = [p.detach().clone() for p in params]
    means = [torch.zeros_like(p) for p in expected]
    run(dp.QHM(params, lr=0.1, pole=beta, nu=nu), params, 20)
    for step in range(20):
        for index, (w, m) in enumerate(zip(expected, means, strict=True)):
            g = gradient(w, step, index)
            m.mul_(beta).add_(g, alpha=1 - beta)
            w.sub_(0.1 * ((1 - nu) * g + nu * m))
    assert distance([p.detach() for p in params], expected) < 1e-11


@DRAWS
@given(beta=POLES, nu=st.floats(0.01, 1))
def test_debiased_qhm_equals_exact_normalisation(beta, nu):
    assert_same_method(
        lambda p: dp.QHM(p, lr=0.1, pole=beta, nu=nu, debias=True),
        filtered(lr=0.1, pole=beta, zero=momentum_forms.qhm(beta, nu).zero, normalise="exact"),
    )


@pytest.mark.parametrize("normalise", ["exact", "none"])
@DRAWS
@given(beta=POLES)
def test_filter_with_the_zero_on_the_pole_equals_sgd(normalise, beta):
    assert_same_method(filtered(pole=beta, zero=beta, normalise=normalise), lambda p: dp.SGD(p, lr=0.05))


def test_autosgm_debias_overshoots_except_for_exact():
    """The original corrects for the pole alone, which is too large by 1/(1 - beta^2) at the second step."""

    def second_step(debias):
        w = torch.zeros(1, dtype=torch.float64, requires_grad=True)
        optimizer = dp.AutoSGM([w], lr=1.0, adaptive=False, zero=0.9, debias=debias)
        for _ in range(2):
            before = w.item()
            w.grad = torch.ones_like(w)
            optimizer.step()
        return before - w.item()

    assert second_step("exact") == pytest.approx(1.0, rel=1e-14)
    assert second_step(True) == pytest.approx(1 / (1 - 0.9**2), rel=1e-12)


@DRAWS
@given(mu=POLES, weight_decay=st.floats(0, 0.1))
def test_heavy_ball_equals_torch_momentum(mu, weight_decay):
    assert_same_method(
        lambda p: dp.HeavyBall(p, lr=0.02, pole=mu, weight_decay=weight_decay),
        lambda p: torch.optim.SGD(p, lr=0.02, momentum=mu, weight_decay=weight_decay),
        tolerance=1e-11,
    )


@DRAWS
@given(mu=POLES)
def test_averaged_momentum_equals_heavy_ball_with_scaled_lr(mu):
    assert_same_method(
        filtered(lr=0.1, pole=mu, normalise="none"), lambda p: dp.HeavyBall(p, lr=0.1 * (1 - mu), pole=mu)
    )


def test_velocity_form_equals_heavy_ball_at_constant_lr():
    """The velocity form is v = mu v + lr g, w -= v."""
    params = parameters()
    expected = [p.detach().clone() for p in params]
    velocity = [torch.zeros_like(p) for p in expected]
    run(dp.HeavyBall(params, lr=0.05, pole=0.8), params, 20)
    for step in range(20):
        for index, (w, v) in enumerate(zip(expected, velocity, strict=True)):
            v.mul_(0.8).add_(gradient(w, step, index), alpha=0.05)
            w.sub_(v)
    assert distance([p.detach() for p in params], expected) < SAME


@DRAWS
@given(mu=POLES, tau=st.floats(0, 1))
def test_dampening_is_a_gain_and_a_transient(mu, tau):
    """torch does not dampen the first gradient: the filter is (mu, 0, 1 - tau), plus tau mu^(t-1) g_1."""
    params = [torch.zeros(4, dtype=torch.float64, requires_grad=True)]
    run(dp.SGD(params, lr=1.0, momentum=mu, dampening=tau), params, 20)
    others = [torch.zeros(4, dtype=torch.float64, requires_grad=True)]
    run(dp.SGM(others, lr=1.0, filter=dp.Filter(mu, gain=1 - tau, normalise="none")), others, 20)
    first = gradient(params[0], 0)
    transient = sum(tau * mu ** (t - 1) for t in range(1, 21)) * first
    assert distance([params[0].detach()], [others[0].detach() - transient]) < 1e-11


@DRAWS
@given(mu=POLES)
def test_nesterov_is_a_zero_of_the_filter(mu):
    point = momentum_forms.nesterov(mu)
    assert_same_method(
        lambda p: torch.optim.SGD(p, lr=0.02, momentum=mu, nesterov=True),
        filtered(lr=0.02, pole=mu, zero=point.zero, gain=point.gain, normalise="none"),
        tolerance=1e-11,
    )
    assert_same_method(lambda p: dp.NAG(p, lr=0.02, pole=mu), lambda p: dp.SGD(p, lr=0.02, momentum=mu, nesterov=True))


def test_autosgm_with_gain_one_equals_nesterov_after_the_first_step():
    """With the quirk, the first step is smaller by lr mu g_1."""
    mu, lr = 0.9, 0.02
    settings = {"adaptive": False, "pole": mu, "zero": mu / (1 + mu), "gain": 1.0, "debias": False, "lr": lr}
    assert_same_method(lambda p: dp.AutoSGM(p, **settings), lambda p: dp.NAG(p, lr=lr, pole=mu))
    params, others = parameters(), parameters()
    quirky = dp.AutoSGM(params, **settings, quirks=("first_step_unscaled_zero",))
    nag = run(dp.NAG(others, lr=lr, pole=mu), others, 20)
    short = [w + lr * mu * gradient(w, 0, index) for index, w in enumerate(nag)]
    assert distance(run(quirky, params, 20), short) < SAME


def test_look_ahead_form_of_nesterov_is_the_same_filter():
    """The gradient is evaluated at the look-ahead point theta, where w = theta - mu v."""
    mu, lr = 0.8, 0.05
    curvature = torch.tensor([0.5, 1.0, 3.0], dtype=torch.float64)
    w, v = torch.ones(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    theta = torch.ones(3, dtype=torch.float64, requires_grad=True)
    optimizer = dp.NAG([theta], lr=lr, pole=mu)
    for _ in range(30):
        v = mu * v - lr * curvature * (w + mu * v)
        w = w + v
        theta.grad = curvature * theta.detach()
        optimizer.step()
        assert distance([theta.detach()], [w + mu * v]) < SAME


@pytest.mark.parametrize("beta", [0.5, 0.9, 0.99, 0.999])
def test_autosgm_zero(beta):
    """For gamma = 1 - sqrt(2(1 - beta)), the unit gain is sqrt((1-beta)/2), and nu = (1 - gain)/beta."""
    zero = momentum_forms.autosgm_zero(beta)
    gain = math.sqrt((1 - beta) / 2)
    assert zero == pytest.approx(1 - math.sqrt(2 * (1 - beta)), rel=1e-15)
    assert_same_method(
        filtered(pole=beta, zero=zero, normalise="none"),
        lambda p: dp.QHM(p, lr=0.05, pole=beta, nu=(1 - gain) / beta),
        tolerance=1e-11,
    )


def test_qhm_default_as_pole_and_zero():
    """QHM with (0.999, 0.7) has the zero 0.99667 and the gain 0.3007."""
    point = momentum_forms.qhm(0.999, 0.7)
    assert (round(point.zero, 5), round(point.gain, 4)) == (0.99667, 0.3007)
