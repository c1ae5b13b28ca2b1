"""Power, error spending and corrections for multiple tests."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from dashpot.errors import ArgumentError
from dashpot.stats.block_model import residual, residual_with_missing, tukey_factor, tukey_p
from dashpot.stats.multiplicity import holm
from dashpot.stats.power import (
    detectable_difference,
    equivalence_power,
    half_width,
    power,
    seeds_for_equivalence,
    seeds_needed,
)
from dashpot.stats.sequential import spent_alpha
from dashpot.stats.sphericity import sphericity_p

RNG = np.random.default_rng(5)


@pytest.mark.parametrize("level", [0.9, 0.99])
@pytest.mark.parametrize("difference", [-0.5, 1.0, 2.0])
@pytest.mark.parametrize("n", [2, 3, 5, 19])
def test_power_of_two_methods_is_that_of_the_noncentral_t(n, difference, level):
    t, shift = stats.t.isf((1 - level) / 2, n - 1), abs(difference) / 0.8 * math.sqrt(n)
    lower = stats.nct.cdf(-t, n - 1, shift) if shift < 8 else 0.0  # scipy returns NaN for larger shifts
    expected = stats.nct.sf(t, n - 1, shift) + lower
    # Quadrature with 200 points; errors are largest for one degree of freedom.
    assert power(difference, 0.8, n, level=level) == pytest.approx(expected, abs=5e-4)


def test_power_from_20_seeds_is_slightly_lower_than_that_of_students_interval():
    t, shift = stats.t.isf(0.025, 19), 0.6 * math.sqrt(20)
    expected = stats.nct.sf(t, 19, shift) + stats.nct.cdf(-t, 19, shift)
    assert expected - 0.05 < power(0.6, 1.0, 20) < expected - 0.005


@pytest.mark.parametrize("methods", [3, 6])
@pytest.mark.parametrize("n", [3, 8])
def test_power_of_no_difference_is_below_the_error_rate(n, methods):
    assert 0 < power(0.0, 1.0, n, methods) < 0.05


def test_power_increases_with_difference_and_decreases_with_methods():
    assert power(1.0, 1.0, 5) < power(1.0, 1.0, 6) < power(1.2, 1.0, 6)
    assert power(1.0, 1.0, 10, methods=6) < power(1.0, 1.0, 10, methods=3) < power(1.0, 1.0, 10)
    assert power(1.0, 1.0, 10, level=0.99) < power(1.0, 1.0, 10)
    assert power(2.0, 2.0, 10, methods=3) == pytest.approx(power(1.0, 1.0, 10, methods=3))


@pytest.mark.parametrize("n", [3, 10])
def test_equivalence_power_is_that_of_simulated_intervals(n):
    draws = RNG.standard_normal((20_000, n))
    half = stats.t.isf(0.025, n - 1) * draws.std(1, ddof=1) / math.sqrt(n)
    for margin, difference in [(2.0, 0.0), (1.5, 0.5)]:
        simulated = (np.abs(draws.mean(1) + difference) + half <= margin).mean()
        # Four standard errors of 20 000 simulations.
        assert equivalence_power(margin, 1.0, n, difference=difference) == pytest.approx(simulated, abs=0.014)


def test_half_width_of_two_methods_is_the_mean_one():
    expected = stats.t.isf(0.025, 4) * math.sqrt(2 / 4) * math.gamma(2.5) / math.gamma(2) / math.sqrt(5)
    assert half_width(1.0, 5) == pytest.approx(expected, rel=5e-4)  # quadrature with 200 points


@pytest.mark.parametrize("methods", [2, 6])
def test_seeds_needed_is_the_smallest_number(methods):
    n = seeds_needed(0.9, 1.0, methods)
    assert power(0.9, 1.0, n, methods) >= 0.8
    assert all(power(0.9, 1.0, m, methods) < 0.8 for m in range(2, n))


def test_seeds_needed_has_a_limit():
    assert seeds_needed(0.0, 1.0) is None
    assert seeds_needed(0.1, 1.0, most=100) is None
    assert 785 < seeds_needed(0.1, 1.0) < 830  # (2.8/.1)^2 with normal quantiles is 785; BCa limits are wider
    assert seeds_needed(5.0, 1.0, most=2) is None


def test_seeds_for_equivalence_is_the_smallest_number():
    n = seeds_for_equivalence(1.0, 1.0, difference=0.2)
    assert equivalence_power(1.0, 1.0, n, difference=0.2) >= 0.8 > equivalence_power(1.0, 1.0, n - 1, difference=0.2)
    assert seeds_for_equivalence(1.0, 1.0, difference=-1.0) is None


@pytest.mark.parametrize(("n", "methods"), [(3, 2), (5, 6), (20, 6)])
def test_detectable_difference_has_the_power(n, methods):
    found = detectable_difference(0.3, n, methods, power=0.9)
    assert power(found, 0.3, n, methods) == pytest.approx(0.9, abs=1e-6)


@pytest.mark.parametrize(
    ("function", "arguments", "sentence"),
    [
        (power, (1.0, 0.0, 5), "power: sd must be a number in (0, inf), got 0.0."),
        (power, (1.0, 1.0, 1), "power: seeds must be an integer in [2, inf), got 1."),
        (power, (1.0, 1.0, 5, 1), "power: methods must be an integer in [2, inf), got 1."),
        (power, (math.nan, 1.0, 5), "power: difference must be a number in (-inf, inf), got nan."),
        (seeds_needed, (1.0, 1.0, 2, 1.0), "seeds_needed: power must be a number in (0, 1), got 1.0."),
        (equivalence_power, (0.0, 1.0, 5), "equivalence_power: margin must be a number in (0, inf), got 0.0."),
        (half_width, (1.0, 5, 2, 1.0), "half_width: level must be a number in (0, 1), got 1.0."),
    ],
)
def test_invalid_arguments_raise(function, arguments, sentence):
    with pytest.raises(ArgumentError) as error:
        function(*arguments)
    assert str(error.value) == sentence


def test_spent_alpha_sums_to_alpha():
    assert spent_alpha([5]) == (0.05,)
    assert sum(spent_alpha([3, 4, 20], alpha=0.1)) == pytest.approx(0.1)


@pytest.mark.parametrize("looks", [[], [5, 5], [10, 5], [1, 5], [2.5]])
def test_invalid_looks_raise(looks):
    with pytest.raises(ArgumentError, match=r"^spent_alpha: looks must be "):
        spent_alpha(looks)


def test_holm_equals_the_definition():
    p = RNG.random(12) ** 3
    order = np.sort(p)
    expected = [min(1, max((12 - i) * order[i] for i in range(np.searchsorted(order, value) + 1))) for value in p]
    assert holm(p) == pytest.approx(np.array(expected))


def test_holm_omits_missing_values_and_keeps_the_shape():
    found = holm(np.array([[0.01, math.nan], [0.6, 0.04]]))
    assert found == pytest.approx(np.array([[0.03, math.nan], [0.6, 0.08]]), nan_ok=True)
    assert holm([]).shape == (0,)


def test_residual_with_missing_scores_of_two_methods_uses_common_seeds():
    scores = RNG.standard_normal((2, 6))
    scores[0, 4] = math.nan
    known = scores[:, [0, 1, 2, 3, 5]]
    found, expected = residual_with_missing(scores), residual(known)
    assert found.degrees == expected.degrees == 4
    assert found.variance == pytest.approx(expected.variance)


def test_residual_with_missing_scores_is_unbiased():
    scores = RNG.standard_normal((2000, 4, 4)) * 3
    scores[:, 1, 2] = scores[:, 3, 0] = math.nan
    found = [residual_with_missing(table) for table in scores]
    assert found[0].degrees == 14 - 7
    # Four standard errors of the mean of 2000 scaled chi-squared values with 7 degrees of freedom.
    assert np.mean([x.variance for x in found]) == pytest.approx(9, abs=4 * 9 * math.sqrt(2 / 7 / 2000))


def test_residual_without_information_has_no_degrees():
    assert residual_with_missing(np.array([[1.0, math.nan], [math.nan, 2.0]])).degrees == 0


@pytest.mark.parametrize("methods", [2, 5])
def test_tukey_p_inverts_the_factor(methods):
    assert tukey_p(tukey_factor(0.99, methods, 8), methods, 8) == pytest.approx(0.01, abs=1e-6)


@pytest.mark.parametrize(("methods", "seeds"), [(3, 3), (6, 3), (4, 10)])
def test_sphericity_p_is_uniform_for_equal_variances(methods, seeds):
    p = sphericity_p(RNG.standard_normal((4000, methods, seeds)) + 5 * RNG.standard_normal((4000, 1, seeds)))
    assert (p <= 0.1).mean() == pytest.approx(0.1, abs=4 * math.sqrt(0.09 / 4000) + 0.012)  # and the null draws


def test_sphericity_p_is_small_for_unequal_variances_or_correlations():
    noise = RNG.standard_normal((200, 6, 8))
    unequal = noise * np.array([1, 1, 1, 1, 1, 6])[:, None]
    family = 0.2 * noise + RNG.standard_normal((200, 2, 8)).repeat(3, axis=1)
    assert (sphericity_p(unequal) < 0.1).mean() > 0.95
    assert (sphericity_p(family) < 0.1).mean() > 0.95


def test_sphericity_is_not_tested_for_two_methods_or_two_seeds():
    assert sphericity_p(np.ones((2, 5))) == 1
    assert sphericity_p(np.ones((3, 2))) == 0
    assert np.isfinite(sphericity_p(np.ones((3, 4))))  # constant scores have no variance
