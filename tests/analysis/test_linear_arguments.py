"""Arguments of response, stability and temperature: optimizers, other types, extreme numbers, and points."""

import numpy as np
import pytest
import torch

import dashpot as dp
from dashpot.analysis import RationalFilter, response, stability, stability_region, temperature
from dashpot.errors import ArgumentError

BALL = dp.HeavyBall.recipe_for(lr=0.1, momentum=0.9)


def weights():
    return [torch.zeros(1, requires_grad=True)]


def test_optimizer_with_one_recipe_is_accepted():
    optimizer = dp.HeavyBall([{"params": weights()}, {"params": weights()}], lr=0.1, pole=0.9)
    assert stability(optimizer, 2.0).largest_lr == stability(BALL, 2.0).largest_lr
    assert response(optimizer).poles == (0.9,)
    assert temperature(optimizer, 2.0).variance == temperature(BALL, 2.0).variance


def test_optimizer_with_different_recipes_raises():
    optimizer = dp.HeavyBall([{"params": weights()}, {"params": weights(), "lr": 0.5}], lr=0.1)
    with pytest.raises(ArgumentError, match=r"stability: recipe must be one recipe, .* 2 different recipes"):
        stability(optimizer)


def test_options_of_optimizer_are_limits():
    limits = " ".join(stability(dp.SGD(weights(), max_norm=1.0, maximize=True)).limits)
    assert "max_norm=1 clips gradients; the results hold while no gradient is clipped." in limits
    assert "curvature is that of the negated objective" in limits


@pytest.mark.parametrize(
    ("value", "got"),
    [
        (dp.Adam, r"got the class Adam; Adam.recipe_for\(...\) is its recipe"),
        (torch.optim.SGD(weights(), lr=0.1), "got SGD of torch.optim; dashpot.explain accepts it"),
        ("adam", "got 'adam'; dashpot.explain accepts names of methods"),
        (dp.SecondMoment(), r"got the stage SecondMoment; Recipe\(SecondMoment\(...\), lr=...\) is a recipe"),
        (None, "got None"),
    ],
)
def test_other_types_raise_with_the_expression_to_use(value, got):
    for function in (response, stability, stability_region, lambda x: temperature(x, 1.0)):
        with pytest.raises(ArgumentError, match=f"recipe must be a Recipe, an optimizer of dashpot, .*, {got}"):
            function(value)


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda x: stability(BALL, x), "curvature"),
        (lambda x: stability(dp.Adam.recipe_for(), 1.0, denominator=x), "denominator"),
        (lambda x: stability_region(BALL, x), "curvature"),
        (lambda x: temperature(BALL, x), "curvature"),
        (lambda x: temperature(BALL, 1.0, x), "noise"),
    ],
)
def test_numbers_whose_products_overflow_raise(call, name):
    for value in (1e-100, 1e-31):
        with pytest.raises(ArgumentError, match=rf"{name} must be .*a number in \[1e-30, 1e\+30\], got {value}"):
            call(value)
    for value in (True, "1", [1.0], 1j, np.array([1.0, 2.0]), float("nan"), 0, -1):
        with pytest.raises(ArgumentError, match=f"{name} must be"):
            call(value)


@pytest.mark.parametrize(
    ("recipe", "reason"),
    [
        (dp.SGD.recipe_for(lr=1e-300), r"The learning rate 1e-300 is outside \[1e-30, 1e30\]"),
        (dp.SGD.recipe_for(lr=1e300), "The learning rate 1e300 is outside"),
        (dp.Recipe(dp.Filter(0.9, -1e300), lr=0.1), "A gain, zero or decay has a magnitude outside"),
        (dp.Recipe(dp.Filter(0.9, gain=1e300, normalise="none"), lr=0.1), "A gain, zero or decay has a magnitude"),
        (dp.Recipe(dp.CoupledDecay(1e300), lr=0.1), "A gain, zero or decay has a magnitude"),
    ],
)
def test_extreme_settings_are_undefined_with_a_reason(recipe, reason):
    with pytest.raises(ArgumentError, match=reason):
        temperature(recipe, 1.0).density(0.0)
    for result in (stability(recipe, 1.0), temperature(recipe, 1.0)):
        assert result.reasons
        assert "inf" not in str(result).replace("(0, inf)", "")


def test_rate_of_zero_with_constant_decay_only_stops_gradients():
    result = stability(dp.Recipe(dp.DecoupledDecay(0.1, scale="constant"), lr=0.0))
    assert result.reasons == ("The learning rate is 0, so that gradients do not change the weight.",)


@pytest.mark.parametrize("value", ["1", 1j, float("nan"), [1.0, float("inf")], None, [[1.0], [1.0, 2.0]], 10**400])
def test_points_that_are_not_finite_numbers_raise(value):
    result = temperature(BALL, 1.0)
    for name, call in (
        ("omega", response(BALL).at),
        ("w", result.density),
        ("w", lambda w: result.gibbs(np.square, w)),
    ):
        with pytest.raises(ArgumentError, match=f"{name} must be a finite number or an array of them"):
            call(value)


def test_gibbs_checks_the_values_of_the_loss():
    result, w = temperature(BALL, 1.0), np.linspace(-1, 1, 5)
    with pytest.raises(ArgumentError, match=r"gibbs: loss\(w\) must be a finite number or an array"):
        result.gibbs(lambda x: x * np.nan, w)
    with pytest.raises(ArgumentError, match=r"gibbs: loss\(w\) must have the shape \(5,\) of w, got \(\)"):
        result.gibbs(np.sum, w)


def test_density_far_from_the_minimum_is_zero():
    assert temperature(BALL, 1.0).density(1e300) == 0


def test_region_states_the_obstacle():
    for value, reason in (
        (RationalFilter((), (0.5, 0.4)), "The filter has order 2"),
        (RationalFilter(gain=-1.0), "The gain of the filter is not positive"),
        (dp.Recipe(dp.Filter(), dp.Filter(slot="b"), lr=0.0), "The filter has order 2"),
    ):
        with pytest.raises(ArgumentError, match=f"a filter of first order. {reason}"):
            stability_region(value)


def test_printed_table_has_no_undefined_numbers_and_conditions_below():
    result = stability(dp.AdamW.recipe_for())
    assert result.to_dict()["half_life"] is None
    assert str(result).splitlines()[0] == result.summary()
    assert "half_life" not in str(result)
    assert str(result).splitlines()[-1] == "  - The denominator d is treated as constant."
    assert "half_life" not in result._repr_html_()
    undefined = str(response(dp.Recipe(dp.ChangeDecay(0.1), dp.Filter())))
    assert undefined.startswith("Undefined: A filter after ChangeDecay")
    assert "\n" not in undefined


def test_meaning_of_the_horizon_states_whether_the_filter_is_corrected():
    for recipe, is_corrected in ((BALL, False), (dp.Adam.recipe_for(), True)):
        [meaning] = [item.meaning for item in response(recipe).quantities() if item.name == "debias_horizon"]
        assert ("without bias correction" in meaning) is is_corrected


def test_temperature_of_ascent_held_by_decay_is_undefined():
    recipe = dp.Recipe(dp.stages.Negate(), dp.DecoupledDecay(0.5, scale="constant"), lr=0.1)
    result = temperature(recipe, 1.0)
    # w' = (1 - s + a) w + lr n with s = 0.5 and a = 0.1: Var w = 0.01/(1 - 0.6^2)
    assert result.variance == pytest.approx(0.01 / 0.64)
    assert result.temperature is None
    assert result.small_rate_temperature is None
    assert "no Gibbs density" in result.summary()
    with pytest.raises(ArgumentError, match="the temperature is undefined"):
        result.gibbs(np.square, [0.0, 1.0])


@pytest.mark.parametrize(
    "section",
    [
        RationalFilter((), (1 - 1e-9, 0.5)),
        RationalFilter((), (0.99998, 0.99998)),
        RationalFilter((), (0.99,) * 4),
        dp.Recipe(dp.Filter(1 - 1e-9), dp.Filter(0.5, slot="second"), lr=0.1),
    ],
)
def test_clustered_poles_of_higher_order_are_undefined_with_a_reason(section):
    for result in (response(section), stability(section, 0.5), temperature(section, 0.5)):
        assert "too close to 1 for double precision" in result.summary()
    with pytest.raises(ArgumentError, match="the filter is undefined"):
        response(section).equivalents()


@pytest.mark.parametrize("poles", [(0.999, 0.999), (0.9999, 0.99), (0.98, 0.98, 0.98, 0.93)])
def test_least_supported_distances_have_accurate_limits(poles):
    """At the limit, a pair of roots is on the unit circle at an angle w with s = |1 - z| prod |z - p|/z^n."""
    section = RationalFilter((), poles, float(np.prod([1 - p for p in poles])))
    limit = stability(section).largest_product
    angles = np.geomspace(1e-6, np.pi, 400_000)
    z = np.exp(1j * angles)
    s = (1 - z) * np.prod([z - p for p in poles], axis=0) / (section.gain * z ** len(poles))
    crossings = s.real[:-1][(np.diff(np.sign(s.imag)) != 0) & (s.real[:-1] > 0)]
    assert limit == pytest.approx(min(crossings), rel=1e-3)  # the grid of angles has steps of 4e-5, relative


def test_half_power_of_a_pole_near_one_does_not_round_to_zero():
    for distance in (1e-3, 1e-9):
        # |H|^2 = d^2/(d^2 + w^2) for small distances d of the pole from 1, relative error of order d
        assert response(dp.Filter(1 - distance)).half_power == pytest.approx(distance, rel=2 * distance + 1e-6)
    assert response(dp.Filter(0.5, 1 - 1e-9)).half_power is None


@pytest.mark.parametrize("section", [RationalFilter((1.0,), (0.5,)), RationalFilter((2.0,), (0.5,)), -1.0, 0.0])
def test_equivalents_without_positive_dc_gain_are_none(section):
    section = section if isinstance(section, RationalFilter) else RationalFilter(gain=section)
    found = response(section).equivalents(batch=2)
    assert {item.settings for item in found.values()} == {None}
    assert all("DC gain is not positive" in item.note for item in found.values())


@pytest.mark.parametrize(
    ("section", "words"),
    [
        (RationalFilter((0.5j, -0.5j), ()), "a weighted sum of the latest 3 gradients"),
        (dp.Filter(0.5, gain=0.0, normalise="none"), "The gain is 0: gradients have no effect."),
    ],
)
def test_summary_of_unusual_filters(section, words):
    assert words in response(section).summary()


def test_mean_delay_of_cancelling_ages_is_zero():
    assert response(RationalFilter((), (0.9 + 0.3j, 0.9 - 0.3j), 0.1)).mean_delay == 0  # the real part of p/(1-p) is 0
