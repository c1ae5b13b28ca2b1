"""Stationary variance against recorded values and covariance iterations, temperature, densities and messages."""

import json
import math

import numpy as np
import pytest
from golden_data import load

import dashpot as dp
from dashpot.analysis import RationalFilter, temperature
from dashpot.analysis.stationary_gain import general_variance_gain, variance_gain
from dashpot.errors import ArgumentError
from dashpot.stages.base import Clock


def unit(pole, zero=0.0):
    """Return a filter of unit DC gain."""
    return dp.Filter(pole, zero, normalise="none")


def integral(values, w):
    """Return the trapezoidal sum; `numpy.trapezoid` requires numpy 2."""
    return ((values[1:] + values[:-1]) / 2 * np.diff(w)).sum()


def iterated_variance(stage, lr, curvature, coupled=0.0, shrink=0.0, steps=4000):
    """Return the variance of w after many steps of the covariance of (w, m), with the scalars of the filter code."""
    c = stage.scalars(Clock(t=10**6, lr=lr))
    total = curvature + coupled
    transition = np.array([[1 - shrink - lr * c["gain"] * total, -lr * c["carry"]], [c["feed"] * total, c["pole"]]])
    noise = np.array([-lr * c["gain"], c["feed"]])
    covariance = np.zeros((2, 2))
    for _ in range(steps):
        covariance = transition @ covariance @ transition.T + np.outer(noise, noise)
    return covariance[0, 0]


def test_golden_variances_are_reproduced():
    cases = [case for case in load("dynamics")["cases"] if case.get("variance") is not None]
    sections = [RationalFilter((case["gamma"],), (case["beta"],), case["k"]) for case in cases]
    results = [
        (variance_gain(section, case["h"], 0.0), temperature(section, case["h"]).variance)
        for section, case in zip(sections, cases, strict=True)
    ]
    error = np.array(results) / np.array([[case["variance"]] for case in cases]) - 1
    # The recorded values are solutions of a linear system; near a radius of 1, its condition is about 1e6.
    assert abs(error).max() < 1e-8
    assert len(cases) == 254


@pytest.mark.parametrize("zero", [-1.2, -0.3, 0.0, 0.5, 0.7, 0.85])
@pytest.mark.parametrize(("coupled", "decoupled"), [(0.0, 0.0), (0.3, 0.0), (0.0, 0.4), (0.2, 0.3)])
def test_variance_equals_iterated_covariance(zero, coupled, decoupled):
    lr, curvature, stage = 0.25, 0.8, unit(0.7, zero)
    recipe = dp.Recipe(dp.CoupledDecay(coupled), stage, dp.DecoupledDecay(decoupled), lr=lr)
    result = temperature(recipe, curvature, noise=3.0, batch=2)
    expected = 1.5 * iterated_variance(stage, lr, curvature, coupled, lr * decoupled, steps=800)
    assert result.variance == pytest.approx(expected, rel=1e-10)  # rounding of 800 products
    assert result.excess_loss == pytest.approx(curvature * expected / 2, rel=1e-10)


@pytest.mark.parametrize("shrink", [0.0, 0.02, 0.9])
@pytest.mark.parametrize(("pole", "zero"), [(0.9, 0.0), (0.9, 0.4737), (0.5, -0.8), (0.3, 0.6), (0.0, 0.0)])
def test_general_variance_equals_closed_form(pole, zero, shrink):
    section = RationalFilter((zero,), (pole,), 0.2)
    closed, general = (function(section, 0.7, shrink) for function in (variance_gain, general_variance_gain))
    assert general == pytest.approx(closed, rel=1e-11)  # condition of the linear system


@pytest.mark.parametrize(("lr", "loss"), [(0.005, 0.00125), (0.01, 0.00251), (0.02, 0.00505), (0.04, 0.0102)])
def test_excess_loss_of_plain_descent(lr, loss):
    assert temperature(dp.SGD.recipe_for(lr=lr), 1.0).excess_loss == pytest.approx(loss, rel=3e-3)  # printed digits


@pytest.mark.parametrize(
    ("recipe", "loss"),
    [
        (dp.Recipe(unit(0.9), lr=0.02), 0.00500),
        (dp.Recipe(unit(0.99), lr=0.02), 0.00500),
        (dp.HeavyBall.recipe_for(lr=0.02, momentum=0.9), 0.0502),
    ],
)
def test_excess_loss_of_momentum(recipe, loss):
    assert temperature(recipe, 1.0).excess_loss == pytest.approx(loss, rel=2e-3)  # printed digits


@pytest.mark.parametrize(
    ("batch", "fixed", "scaled"), [(1, 0.00505, 0.00505), (4, 0.00126, 0.00520), (16, 0.00032, 0.00594)]
)
def test_excess_loss_by_batch(batch, fixed, scaled):
    at = {lr: temperature(dp.SGD.recipe_for(lr=lr), 1.0, batch=batch).excess_loss for lr in (0.02, 0.02 * batch)}
    assert at[0.02] == pytest.approx(fixed, rel=2e-2)  # printed digits
    assert at[0.02 * batch] == pytest.approx(scaled, rel=3e-3)  # recorded from a simulation


@pytest.mark.parametrize(("pole", "ratio"), [(0.0, 1.053), (0.5, 1.017), (0.9, 1.0026), (0.99, 1.0003)])
def test_temperature_of_averages_depends_little_on_pole(pole, ratio):
    result = temperature(dp.Recipe(unit(pole), lr=0.1), 1.0)
    assert result.temperature / result.small_rate_temperature == pytest.approx(ratio, abs=5e-4)  # printed digits


@pytest.mark.parametrize("length", [1, 2, 10, 100, 1000])
def test_temperature_of_averages_is_independent_of_length_beyond_slow_changes(length):
    """The ratio is 1/(1 - lr h/(2 (2N - 1))), near 1 even if the weight oscillates within N steps (lr h N = 100)."""
    result = temperature(dp.Recipe(unit(dp.momentum_forms.pole_of_length(length)), lr=0.1), 1.0)
    expected = 1 / (1 - 0.1 / (2 * (2 * length - 1)))
    assert result.temperature / result.small_rate_temperature == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    "recipe",
    [
        dp.Recipe(unit(0.9, 0.3), lr=1e-5),
        dp.SGD.recipe_for(lr=1e-6, momentum=0.9, weight_decay=0.5),
        dp.Recipe(unit(0.9, 0.3), dp.DecoupledDecay(0.5), lr=1e-5),
    ],
)
def test_temperature_approaches_limit_of_small_rates(recipe):
    result = temperature(recipe, 1.0, noise=2.0, batch=4)
    assert result.temperature == pytest.approx(result.small_rate_temperature, rel=1e-4)  # first order in the rate
    assert result.small_rate_temperature == pytest.approx(recipe.lr * (10 if recipe.lr < 1e-5 else 1) / 4)


def test_influence_is_the_sum_of_the_weights_of_one_gradient():
    recipe = dp.HeavyBall.recipe_for(lr=0.1, momentum=0.9)
    result = temperature(recipe, 1.0)
    assert (result.influence, result.effective_lr) == (pytest.approx(1.0), pytest.approx(1.0))


def test_second_order_filter_uses_general_form():
    stages = unit(0.8), dp.Filter(0.6, 0.2, normalise="none", slot="second")
    result = temperature(dp.Recipe(*stages, lr=0.1), 1.0)
    assert result.temperature == pytest.approx(0.05, rel=0.1)  # first order in the rate
    product = RationalFilter((0.0, 0.2), (0.8, 0.6), 0.2 * 0.5)
    assert result.variance == pytest.approx(0.01 * general_variance_gain(product, 0.1, 0.0), rel=1e-12)


def test_denominator_scales_curvature_and_noise():
    recipe = dp.RMSprop.recipe_for(lr=0.1)
    raw = temperature(recipe, 2.0, noise=3.0, denominator=0.5)
    preconditioned = temperature(recipe, 4.0, noise=12.0)
    assert raw.variance == pytest.approx(preconditioned.variance)
    assert raw.excess_loss == pytest.approx(0.5 * preconditioned.excess_loss)
    assert raw.temperature == pytest.approx(0.5 * preconditioned.temperature)


@pytest.mark.parametrize(
    ("recipe", "total", "expected"),
    [
        (dp.Adam.recipe_for(lr=0.1, eps=0.5), 2.0, lambda square: math.sqrt(square) + 0.5),
        (dp.RMSprop.recipe_for(lr=0.1, momentum=0.9, weight_decay=0.5), 2.5, math.sqrt),
        (dp.Recipe(dp.SecondMoment(eps=0.5, eps_mode="inside"), lr=0.1), 2.0, lambda square: math.sqrt(square + 0.5)),
        (dp.Recipe(dp.SecondMoment(0.75, average="sum"), lr=0.1), 2.0, lambda square: math.sqrt(4 * square)),
        (dp.Recipe(dp.CenteredMoment(eps=0.5, power="variance"), lr=0.1), 2.0, lambda square: square + 0.5),
        (dp.RMSprop.recipe_for(lr=3.0), 2.0, math.sqrt),  # unstable for the root mean square of the noise alone
    ],
)
def test_rms_denominator_is_root_mean_square_of_stationary_gradient(recipe, total, expected):
    result = temperature(recipe, 2.0, noise=4.0, batch=4, denominator="rms")
    square = total**2 * result.variance + 1.0
    assert result.denominator == pytest.approx(expected(square), rel=1e-7)  # eps 1e-8 of RMSprop
    assert result.variance == temperature(recipe, 2.0, 4.0, 4, denominator=result.denominator).variance
    assert "root mean square" in result.limits[-1]


@pytest.mark.parametrize(
    ("recipe", "reason"),
    [
        (dp.Adagrad.recipe_for(), "grows with every gradient"),
        (dp.Adam.recipe_for(amsgrad=True), "is a maximum over all steps"),
        (dp.QHAdam.recipe_for(nus=(0.7, 0.5)), "depends on the gradient of the step"),
        (dp.CenteredAdam.recipe_for(mean="direction"), "subtracts the direction"),
        (dp.AdaHessian.recipe_for(), "Curvature is not a second moment"),
        (dp.Recipe(dp.SecondMoment(), dp.SecondMoment(slot="second")), "requires a single denominator"),
        (dp.Recipe(dp.SecondMoment(), dp.DecoupledDecay(2.5, "constant")), "diverges for every denominator"),
        (dp.Adam.recipe_for(lr=0.0), "The learning rate is 0"),
    ],
)
def test_missing_rms_denominator_is_a_reason(recipe, reason):
    result = temperature(recipe, 1.0, denominator="rms")
    assert (result.variance, result.denominator) == (None, None)
    assert reason in result.reasons[0]


def test_density_is_normalised_and_equals_gibbs_at_small_rates():
    result = temperature(dp.SGD.recipe_for(lr=1e-4), 2.0, noise=5.0)
    w = np.linspace(-0.2, 0.2, 4001)
    density = result.density(w)
    assert integral(density, w) == pytest.approx(1.0, rel=1e-9)
    assert integral(density * w**2, w) == pytest.approx(result.variance, rel=1e-9)
    assert result.gibbs(lambda w: w**2, w) == pytest.approx(density, rel=0.02)  # first order in the rate, at 12 sd


def test_gibbs_of_double_well_weighs_the_deeper_well():
    result = temperature(dp.SGD.recipe_for(lr=0.1), 1.0, noise=2.0)  # T = 0.1
    w = np.linspace(-2, 2, 2001)
    density = result.gibbs(lambda w: (w**2 - 1) ** 2 + 0.05 * w, w)
    assert integral(density, w) == pytest.approx(1.0)
    left, right = density[np.argmin(abs(w + 1))], density[np.argmin(abs(w - 1))]
    assert left / right == pytest.approx(math.e, rel=1e-6)  # difference of the losses 0.1 over T


@pytest.mark.parametrize(
    ("recipe", "curvature", "reason"),
    [
        (dp.SGD.recipe_for(lr=0.1), 30.0, "There is no stationary distribution at curvature 30: unstable, diverges"),
        (dp.SGD.recipe_for(lr=0.1), 20.0, "There is no stationary distribution at curvature 20: marginal"),
        (dp.SGD.recipe_for(lr=0.0), 1.0, "The learning rate is 0"),
        (dp.Recipe(dp.Filter(), dp.Parcor()), 1.0, "Parcor computes the learning rate from data"),
        (dp.Recipe(dp.ChangeDecay(0.1), dp.Filter()), 1.0, "A filter after ChangeDecay"),
    ],
)
def test_undefined_temperature_is_none_with_reason(recipe, curvature, reason):
    result = temperature(recipe, curvature)
    assert result.reasons[0].startswith(reason)
    assert (result.variance, result.excess_loss, result.temperature) == (None, None, None)
    assert result.summary().startswith(f"Undefined: {reason}")
    assert json.loads(json.dumps(result.to_dict()))["reasons"]
    with pytest.raises(ArgumentError, match="density: the temperature is undefined"):
        result.density(0.0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda r: temperature(r, 0.0), r"temperature: curvature must be a number in \(0, inf\), got 0.0"),
        (lambda r: temperature(r, 1.0, noise=0.0), r"noise must be a number in \(0, inf\), got 0.0"),
        (lambda r: temperature(r, 1.0, batch=0.5), r"batch must be an integer in \[1, inf\), got 0.5"),
        (lambda r: temperature(r, 1.0, denominator=2.0), "denominator must be None for a recipe without a denominator"),
        (lambda r: temperature(r, 1.0, denominator="rms"), "denominator must be None for a recipe without"),
        (lambda r: temperature(r, 1.0, denominator="rm"), r'must be None, "rms" or a number in \(0, inf\), got \'rm\''),
        (lambda r: temperature(r, 1.0).gibbs(abs, [1.0, 0.5]), "gibbs: w must be an increasing sequence"),
    ],
)
def test_invalid_arguments_raise(call, message):
    with pytest.raises(ArgumentError, match=message):
        call(dp.SGD.recipe_for())


def test_growing_denominator_has_no_stationary_state():
    recipe = dp.Adagrad.recipe_for(lr=0.01)
    result = temperature(recipe, 1.0)
    assert (result.variance, result.temperature) == (None, None)
    assert result.reasons == ("The factor lr/d tends to 0 as d grows, so that there is no stationary variance.",)
    at_step = temperature(recipe, 1.0, denominator=2.0)
    assert at_step.variance == temperature(dp.SGD.recipe_for(lr=0.005), 1.0).variance
