"""Stability on quadratics: recorded values, known bounds, damping regimes and messages."""

import json
import math

import numpy as np
import pytest
import torch
from golden_data import load

import dashpot as dp
from dashpot.analysis import RationalFilter, stability
from dashpot.analysis.closed_loop import by_product, roots, spectral_radius, stable_range
from dashpot.errors import ArgumentError
from dashpot.optimizers.registry import METHODS
from dashpot.stages import Negate


def unit(pole, zero=0.0):
    """Return a filter of unit DC gain with a learning rate of 1."""
    return dp.Filter(pole, zero, normalise="none")


def errors(recipe, curvature, steps, start=1.0):
    """Return the weights of the real stages on a quadratic."""
    w = torch.tensor(start, dtype=torch.float64)
    state, found = dp.functional.init(recipe, w), []
    for step in range(steps):
        w, state = dp.functional.update(recipe, w, curvature * w, state, step)
        found.append(float(w))
    return found


def test_golden_cases_are_reproduced():
    cases = load("dynamics")["cases"]
    assert len(cases) == 336
    for case in cases:
        section = RationalFilter((case["gamma"],), (case["beta"],), case["k"])
        family = by_product(section, 0.0)
        # Near a double root, the recorded eigenvalues are accurate to a root of the machine epsilon.
        assert abs(spectral_radius(roots(family.at(case["h"]))) - case["spectral_radius"]) < 2e-8
        low, high = stable_range(family)
        assert (low < case["h"] < high) is case["stable"]
        if case["gamma"] != case["beta"] and case["h"] == 2.0:  # `stability` cancels equal pairs
            result = stability(section, case["h"])
            assert result.stable is case["stable"]
            assert abs(result.spectral_radius - case["spectral_radius"]) < 2e-8


@pytest.mark.parametrize(
    ("recipe", "product"),
    [
        (dp.SGD.recipe_for(lr=0.1), 2.0),
        (dp.HeavyBall.recipe_for(lr=0.1, momentum=0.9), 2 * 1.9),
        (dp.Recipe(unit(0.9), lr=0.1), 2 * 1.9 / 0.1),
        (dp.NAG.recipe_for(lr=0.1, momentum=0.9), 2 * 1.9 / 2.8),
        (dp.SGD.recipe_for(lr=0.1, momentum=0.9, nesterov=True), 2 * 1.9 / 2.8),
        (dp.Recipe(unit(0.9, 0.5), lr=0.1), 2 * 1.9 * 0.5 / (1.5 * 0.1)),
        (dp.Recipe(unit(0.9, -0.3), lr=0.1), 13 / 3),  # the printed condition alone would give 70.6
        (dp.Recipe(unit(0.9, -0.02), lr=0.1), 2 * 1.9 * 1.02 / (0.98 * 0.1)),  # |zero| < (1-pole)/(3+pole)
        (dp.Recipe(unit(0.5, -1.0), lr=0.1), 2.0),
        (dp.Recipe(unit(0.5, -1.5), lr=0.1), 2.5 / 1.5),
        (dp.Recipe(unit(0.9, 0.9), lr=0.1), 2.0),
        (dp.Recipe(unit(0.5, 0.8), lr=0.1), 2 * 1.5 * 0.2 / (1.8 * 0.5)),
        (dp.AdamW.recipe_for(lr=0.1, weight_decay=0.0), 38.0),
    ],
)
def test_largest_curvature_of_known_methods(recipe, product):
    result = stability(recipe)
    assert result.largest_product == pytest.approx(product, rel=1e-12)
    assert result.largest_curvature == pytest.approx(10 * product, rel=1e-12)


def test_zero_at_crossing_of_both_bounds():
    zero = -0.1 / 3.9  # |zero| = (1-pole)/(3+pole)
    assert stability(unit(0.9, zero)).largest_product == pytest.approx((1 - zero) / -zero, rel=1e-12)
    assert stability(unit(0.9, zero)).largest_product == pytest.approx(38 * (1 - zero) / (1 + zero), rel=1e-12)


@pytest.mark.parametrize("zero", [-1.2, -1.0, -0.3, 0.0, 0.4, 0.9])
@pytest.mark.parametrize(
    "decay", [(), (dp.DecoupledDecay(0.5),), (dp.ChangeDecay(0.3, factor=0.5),), (dp.DecoupledDecay(0.4, "constant"),)]
)
def test_spectral_radius_is_one_at_largest_lr_and_curvature(zero, decay):
    stages = (dp.CoupledDecay(0.2), dp.Filter(0.8, zero, normalise="none"), *decay)
    result = stability(dp.Recipe(*stages, lr=0.3), curvature=0.7)
    bounded = stability(dp.Recipe(*stages, lr=result.largest_lr), curvature=0.7)
    assert bounded.spectral_radius == pytest.approx(1.0, abs=1e-9)  # a double root would be accurate to 1e-8
    edge = result.largest_curvature
    assert stability(dp.Recipe(*stages, lr=0.3), edge).spectral_radius == pytest.approx(1.0, abs=1e-9)
    assert stability(dp.Recipe(*stages, lr=0.3), edge * 0.999).stable
    assert not stability(dp.Recipe(*stages, lr=0.3), edge * 1.001).stable


def test_coupled_decay_adds_to_curvature_and_decoupled_decay_damps():
    plain = stability(dp.SGD.recipe_for(lr=0.1)).largest_curvature
    assert stability(dp.SGD.recipe_for(lr=0.1, weight_decay=3.0)).largest_curvature == pytest.approx(plain - 3)
    decoupled = dp.Recipe(dp.DecoupledDecay(3.0), lr=0.1)  # equal without momentum
    assert stability(decoupled).largest_curvature == pytest.approx(plain - 3)
    excessive = stability(dp.SGD.recipe_for(lr=0.1, weight_decay=30.0))
    assert excessive.largest_curvature == 0.0
    assert excessive.summary() == "Unstable at every positive curvature at learning rate 0.1."


def test_denominator_converts_curvature_and_decay():
    recipe = dp.Adam.recipe_for(lr=0.1, weight_decay=2.0)
    result = stability(recipe, 5.0, denominator=0.5)
    assert result.largest_curvature == pytest.approx(380 * 0.5 - 2)
    assert result.spectral_radius == pytest.approx(stability(recipe, (5 + 2) / 0.5).spectral_radius)
    assert (result.unit, stability(recipe).unit) == ("curvature", "preconditioned curvature h/d")


@pytest.mark.parametrize(("share", "grows"), [(0.97, False), (1.03, True)])
def test_limit_of_adam_equals_real_steps_for_constant_denominator(share, grows):
    """With gradients far below eps, d equals eps; the bias correction changes only the first steps."""
    recipe = dp.Adam.recipe_for(lr=0.1, eps=0.5)
    curvature = share * stability(recipe, denominator=0.5).largest_curvature
    found = errors(recipe, curvature, 160, start=1e-60)
    assert (max(map(abs, found[120:])) > max(map(abs, found[80:120]))) is grows


@pytest.mark.parametrize("pole", [0.0, 0.3, 0.9])
def test_deadbeat_setting_removes_the_error_in_two_steps(pole):
    result = stability(dp.Filter(pole, normalise="none"))
    zero, product = result.deadbeat_zero, result.deadbeat_product
    assert (zero, product) == pytest.approx((pole / (1 + pole), 1 + pole))
    recipe = dp.Recipe(dp.Filter(pole, zero, gain=1.0, normalise="none"), lr=product)
    assert errors(recipe, 1.0, 4)[1:] == pytest.approx([0.0] * 3, abs=1e-14)
    assert stability(recipe, 1.0).regime.startswith("deadbeat")


def test_deadbeat_setting_with_decoupled_decay():
    result = stability(dp.Recipe(unit(0.6), dp.DecoupledDecay(0.2, "constant"), lr=1.0))
    stages = dp.Filter(0.6, result.deadbeat_zero, gain=1.0, normalise="none"), dp.DecoupledDecay(0.2, "constant")
    assert errors(dp.Recipe(*stages, lr=result.deadbeat_product), 1.0, 4)[1:] == pytest.approx([0.0] * 3, abs=1e-14)


@pytest.mark.parametrize(("pole", "zero"), [(0.81, 0.0), (0.9, 0.3), (0.5, -0.4), (0.0, 0.0)])
def test_critical_curvature_has_a_double_root(pole, zero):
    recipe = dp.Recipe(dp.Filter(pole, zero, normalise="none"), dp.DecoupledDecay(0.01), lr=0.3)
    critical = stability(recipe).critical_curvature
    assert stability(recipe, 0.9 * critical).regime == "overdamped"
    first, second = (*stability(recipe, critical).roots, 0.0)[:2]
    assert abs(first - second) < 1e-6  # a double root is accurate to a root of the machine epsilon
    if pole:
        assert stability(recipe, 1.1 * critical).regime.startswith("underdamped")


@pytest.mark.parametrize(("length", "product"), [(10, 0.26334), (100, 0.25126), (10_000, 0.25001)])
def test_average_oscillates_if_lr_times_curvature_times_length_exceeds_a_quarter(length, product):
    recipe = dp.Recipe(unit(dp.momentum_forms.pole_of_length(length)), lr=0.01)
    assert stability(recipe).critical_curvature * recipe.lr * length == pytest.approx(product, abs=1e-5)


def test_zero_above_pole_is_never_underdamped():
    assert stability(unit(0.5, 0.8)).critical_curvature is None


@pytest.mark.parametrize(
    ("recipe", "curvature", "words"),
    [
        (dp.HeavyBall.recipe_for(lr=0.1, momentum=0.81), 0.1, "critically damped"),
        (dp.HeavyBall.recipe_for(lr=0.1, momentum=0.81), 0.05, "overdamped"),
        (dp.HeavyBall.recipe_for(lr=0.1, momentum=0.81), 18.1, "underdamped, oscillates with a period of 4 steps"),
        (dp.SGD.recipe_for(lr=0.1), 15.0, "alternates in sign"),
        (dp.SGD.recipe_for(lr=0.1), 10.0, "deadbeat, vanishes after 1 step"),
        (dp.SGD.recipe_for(lr=0.1), 20.0, "marginal, neither decays nor grows"),
        (dp.SGD.recipe_for(lr=0.1), 25.0, "unstable, diverges with alternating signs"),
        (dp.Recipe(unit(0.9, -0.9), lr=1.0), 4.0, "unstable, diverges with oscillations of a period of"),
        (dp.Recipe(Negate(), lr=0.1), 1.0, "unstable, diverges monotonically"),
    ],
)
def test_regime_describes_the_errors(recipe, curvature, words):
    assert stability(recipe, curvature).regime.startswith(words)


@pytest.mark.parametrize(
    ("curvature", "summary"),
    [
        (
            15.0,
            "Regime at curvature 15: alternates in sign; errors are halved every step in the long run. Stable for a "
            "curvature below 20 at learning rate 0.1, and for learning rates below 0.1333 at curvature 15.",
        ),
        (
            30.0,
            "Regime at curvature 30: unstable, diverges with alternating signs, by a factor of 2 per step. Stable for "
            "a curvature below 20 at learning rate 0.1, and for learning rates below 0.06667 at curvature 30.",
        ),
        (10.0, "Regime at curvature 10: deadbeat, vanishes after 1 step. Stable for a curvature below 20"),
        (None, "Stable for a curvature below 20 at learning rate 0.1."),
    ],
)
def test_summary_states_regime_and_limits(curvature, summary):
    assert stability(dp.SGD.recipe_for(lr=0.1), curvature).summary().startswith(summary)


def test_half_life_and_period_match_errors_of_stages():
    recipe = dp.HeavyBall.recipe_for(lr=0.1, momentum=0.81)
    result = stability(recipe, 18.1)  # 1 + pole = lr h: the roots are +-0.9j
    found = errors(recipe, 18.1, 40)
    assert found[39] / found[35] == pytest.approx(0.81**2, rel=1e-9)
    assert (result.period, result.spectral_radius) == pytest.approx((4.0, 0.9))
    assert result.half_life == pytest.approx(math.log(0.5) / math.log(0.9))


def test_second_order_filter_uses_its_roots():
    recipe = dp.Recipe(unit(0.8), dp.Filter(0.6, 0.2, normalise="none", slot="second"), lr=0.5)
    result = stability(recipe, 1.0)
    edge = stability(recipe, result.largest_curvature)
    assert edge.spectral_radius == pytest.approx(1.0, abs=1e-9)
    assert stability(dp.Recipe(*recipe.stages, lr=result.largest_lr), 1.0).spectral_radius == pytest.approx(1, abs=1e-9)
    found = np.log(np.abs(errors(recipe, 0.05, 200)))
    rate = stability(recipe, 0.05).spectral_radius
    assert stability(recipe, 0.05).period is None
    assert (found[199] - found[99]) / 100 == pytest.approx(math.log(rate), rel=1e-6)  # faster modes have decayed


@pytest.mark.parametrize("name", METHODS)
def test_stability_of_every_method_has_numbers_or_reasons(name):
    recipe = METHODS[name].cls([torch.zeros(1, requires_grad=True)]).recipe
    result = stability(recipe, 0.01)
    assert result.largest_curvature > 0 or result.reasons
    assert json.loads(json.dumps(result.to_dict()))["summary"] == result.summary()
    assert result.stable


@pytest.mark.parametrize(
    ("recipe", "reason", "summary"),
    [
        (dp.Recipe(dp.Filter(0.9), dp.Parcor()), "Parcor computes", "learning rate times curvature below 38."),
        (dp.Recipe(dp.MomentRate(), dp.DecoupledDecay(0.1)), "MomentRate computes", "Undefined: MomentRate"),
        (dp.SGD.recipe_for(lr=0.0), "The learning rate is 0", "below 2. Undefined: The learning rate is 0"),
        (dp.SGD.recipe_for(momentum=0.9, dampening=1.0), "The gain of the filter is 0", "Undefined: The gain"),
        (RationalFilter((), (1.2,)), "The filter is unstable", "Undefined: The filter is unstable"),
        (dp.Recipe(dp.ChangeDecay(0.1), dp.Filter()), "A filter after ChangeDecay", "Undefined: A filter after"),
    ],
)
def test_undefined_numbers_are_none_with_reasons(recipe, reason, summary):
    result = stability(recipe, 0.5)
    assert result.reasons[0].startswith(reason)
    assert (result.stable, result.spectral_radius, result.largest_curvature, result.regime) == (None,) * 4
    assert summary in result.summary()


def test_method_that_ascends_is_unstable_everywhere():
    assert "Unstable at every positive curvature." in stability(dp.Recipe(Negate(), lr=0.1)).summary()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda r: stability(r, 0.0), r"stability: curvature must be None or a number in \(0, inf\), got 0.0"),
        (lambda r: stability(r, -1), r"curvature must be None or a number in \(0, inf\), got -1"),
        (lambda r: stability(r, 1.0, denominator=2.0), "denominator must be None for a recipe without a denominator"),
        (lambda r: stability(dp.Adam.recipe_for(), denominator=0.0), r"denominator must be None or a number in \(0"),
        (lambda r: stability([r]), "stability: recipe must be a Recipe"),
    ],
)
def test_invalid_arguments_raise(call, message):
    with pytest.raises(ArgumentError, match=message):
        call(dp.SGD.recipe_for())
