"""Equivalences between AutoSGM, Adam and their variants, each tested with two runs on the same gradients."""

import math

import pytest
import torch
from contracts.trajectories import assert_different_method, assert_same_method, distance, gradient, parameters, run
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


TINY = 1e-13
"""AutoSGM adds eps to the gradient before squaring. The relative difference to Adam is 2 eps/|g|, negligible here."""


@DRAWS
@given(pole=POLES, beta=st.floats(0.5, 0.9999), rho=st.floats(0, 0.5))
def test_autosgm_at_change_level_equals_adamw_with_scaled_decay(pole, beta, rho):
    """weight_decay = (1 - pole) rho: with pole 0.9, 1e-2 in AutoSGM corresponds to 1e-3 in AdamW."""
    tuples = {
        "lr_cfg": (True, 0.01, 0),
        "beta_cfg": (0.9999, beta, pole, 0.0, 0.0, True),
        "wd_cfg": (rho, 1),
        "eps_cfg": (TINY,),
    }
    assert_same_method(
        lambda p: dp.AutoSGM(p, **tuples),
        lambda p: dp.AdamW(p, lr=0.01, betas=(pole, beta), eps=TINY, weight_decay=(1 - pole) * rho),
        tolerance=1e-11,  # eps in the square: 2e-13 divided by the smallest gradients of the run, about 1e-2
    )


def test_autosgm_at_change_level_equals_torch_adamw():
    assert_same_method(
        lambda p: dp.AutoSGM(p, lr=0.01, decay="change", weight_decay=0.1, eps=TINY),
        lambda p: torch.optim.AdamW(p, lr=0.01, eps=TINY, weight_decay=0.01),
        tolerance=1e-11,
    )


@DRAWS
@given(zero=st.floats(-0.5, 0.9))
def test_change_level_decay_is_scaled_by_the_unit_gain(zero):
    share = (1 - 0.9) / (1 - zero)
    start = torch.ones(1, dtype=torch.float64, requires_grad=True)
    optimizer = dp.AutoSGM([start], lr=0.5, zero=zero, decay="change", weight_decay=0.25)
    start.grad = torch.zeros_like(start)
    optimizer.step()
    assert start.item() == pytest.approx(1 - 0.5 * share * 0.25, rel=1e-14)


@pytest.mark.parametrize(("zero", "share"), [(0.0, 0.1), (0.9 / 1.9, 0.19), (0.5528, 0.2236)])
def test_change_level_factors_in_the_docs(zero, share):
    decay = dp.AutoSGM.recipe_for(zero=zero, decay="change", weight_decay=1.0).stages[-1]
    assert decay.factor == pytest.approx(share, abs=5e-5)


@DRAWS
@given(pole=POLES, beta=st.floats(0.5, 0.9999), rho=st.floats(0, 0.2))
def test_autosgm_at_gradient_level_equals_adam(pole, beta, rho):
    assert_same_method(
        lambda p: dp.AutoSGM(p, lr=0.01, pole=pole, beta_a=beta, weight_decay=rho, eps=TINY),
        lambda p: dp.Adam(p, lr=0.01, betas=(pole, beta), weight_decay=rho, eps=TINY),
        tolerance=1e-11,
    )


def test_autosgm_without_denominator_equals_debiased_momentum():
    assert_same_method(lambda p: dp.AutoSGM(p, lr=0.05, adaptive=False), filtered(pole=0.9, normalise="exact"))


def test_autosgm_gain_has_no_effect_with_debias():
    assert_same_method(lambda p: dp.AutoSGM(p, gain=0.37), dp.AutoSGM)
    assert_different_method(lambda p: dp.AutoSGM(p, gain=0.37, debias=False), lambda p: dp.AutoSGM(p, debias=False))


def test_autosgm_numerators_1_and_2_coincide_with_a_large_cap():
    """Without the cap and the division by C, numerator 2 equals numerator 1 for small weights."""
    small = [p.detach().mul(1e-9).requires_grad_() for p in parameters()]
    other = [p.detach().clone().requires_grad_() for p in small]
    one = dp.SGM(small, lr=1e-9, rate=dp.Parcor(0.9))
    two = dp.SGM(other, lr=1e-9, rate=dp.HuberParcor(0.9, cap=1e12))
    run(one, small, 10)
    run(two, other, 10)
    assert distance([p * 1e9 for p in small], [p * 1e9 for p in other]) < 1e-9
    assert distance([p * 1e9 for p in small], [p * 1e9 for p in parameters()]) > 1e-9


@DRAWS
@given(betas=st.tuples(POLES, st.floats(0.5, 0.9999)), weight_decay=st.floats(0, 0.5))
def test_qhadam_with_nus_one_equals_adamw(betas, weight_decay):
    common = {"lr": 0.01, "betas": betas, "weight_decay": weight_decay}
    assert_same_method(
        lambda p: dp.QHAdam(p, nus=(1.0, 1.0), **common), lambda p: dp.AdamW(p, **common), tolerance=1e-11
    )


def test_qhadam_with_nus_zero_is_sign_descent():
    params, start = parameters(), [p.detach() for p in parameters()]
    run(dp.QHAdam(params, lr=0.01, nus=(0.0, 0.0), eps=0.0), params, 1)
    expected = [w - 0.01 * gradient(w, 0, index).sign() for index, w in enumerate(start)]
    assert distance([p.detach() for p in params], expected) < 1e-15


@DRAWS
@given(betas=st.tuples(POLES, st.floats(0.5, 0.9999)), weight_decay=st.floats(0, 0.5))
def test_centered_adam_with_only_uncentered_steps_equals_adamw(betas, weight_decay):
    common = {"lr": 0.01, "betas": betas, "weight_decay": weight_decay}
    assert_same_method(lambda p: dp.CenteredAdam(p, uncentered_steps=10**9, **common), lambda p: dp.AdamW(p, **common))


def test_centered_adam_differs_from_adamw():
    assert_different_method(lambda p: dp.CenteredAdam(p, lr=0.01), lambda p: dp.AdamW(p, lr=0.01, weight_decay=0.0))


def test_adam_equals_sgm_with_its_stages():
    assert_same_method(
        lambda p: dp.SGM(p, lr=0.01, filter=dp.Filter(0.9), rate=dp.SecondMoment(0.999)), lambda p: dp.Adam(p, lr=0.01)
    )


def test_rmsprop_equals_adam_without_momentum_and_debias():
    """At each step, Adam's lr is divided by the correction sqrt(1 - beta^t)."""
    beta, lr, steps = 0.9, 0.01, 20
    params, others = parameters(), parameters()
    rmsprop = dp.RMSprop(params, lr=lr, alpha=beta, eps=0.0)
    adam = dp.Adam(others, betas=(0.0, beta), eps=0.0)
    for step in range(steps):
        adam.param_groups[0]["lr"] = lr / math.sqrt(1 - beta ** (step + 1))
        run(rmsprop, params, [step])
        run(adam, others, [step])
    assert distance([p.detach() for p in params], [p.detach() for p in others]) < SAME


@pytest.mark.parametrize("length", [1, 4, 10, 2.5])
def test_running_average_is_the_arithmetic_mean_until_n(length):
    """After N steps it equals the pole filter. N = 1 disables averaging, and N can be fractional."""
    params = [torch.zeros(4, dtype=torch.float64, requires_grad=True)]
    pole = momentum_forms.pole_of_length(length)
    optimizer = dp.SGM(params, lr=1.0, filter=dp.Filter(pole, normalise="running"))
    mean, history = torch.zeros(4, dtype=torch.float64), []
    for step in range(15):
        before = params[0].detach().clone()
        run(optimizer, params, [step])
        g = gradient(params[0], step)
        history.append(g)
        mean = torch.stack(history).mean(0) if step + 1 <= length else (1 - 1 / length) * mean + g / length
        assert distance([before - params[0].detach()], [mean]) < SAME


def test_running_second_moment_is_the_mean_square_until_n():
    params = [torch.zeros(4, dtype=torch.float64, requires_grad=True)]
    recipe = dp.Recipe(dp.SecondMoment(0.9, 0.0, average="running"), lr=1.0)
    optimizer = dp.SGM.from_recipe(params, recipe)
    squares = []
    for step in range(10):
        before = params[0].detach().clone()
        run(optimizer, params, [step])
        g = gradient(params[0], step)
        squares.append(g * g)
        assert distance([before - params[0].detach()], [g / torch.stack(squares).mean(0).sqrt()]) < SAME
