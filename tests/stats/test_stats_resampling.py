"""Bootstrap limits, sign-flip tests and the variance of rounding, on many sets of values at once."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from scipy import stats

from dashpot.stats.bootstrap import bca_limits
from dashpot.stats.rounding import least_variance, resolution, without_rounding_errors
from dashpot.stats.sign_flips import sign_flip_p

RNG = np.random.default_rng(1)
SETS = {
    "normal": RNG.standard_normal(20),
    "lognormal": np.exp(RNG.standard_normal(20)),
    "t": RNG.standard_t(3, 30),
    "integers": RNG.integers(0, 4, 25) * 1.0,
}


@pytest.mark.parametrize("level", [0.8, 0.95, 0.99])
@pytest.mark.parametrize("name", SETS)
def test_saddlepoint_limits_equal_those_of_resamples(name, level):
    x, tail = SETS[name], (1 - level) / 2
    n = len(x)
    factor = stats.t.isf(tail, n - 1) * np.sqrt(n / (n - 1)) / stats.norm.isf(tail)
    found = (np.array(bca_limits(x, level)) - x.mean()) / factor
    resampled = stats.bootstrap((x,), np.mean, confidence_level=level, method="BCa", n_resamples=50_000, rng=0)
    # Percentiles of 50 000 resamples have standard errors of .01 to .04 standard errors of the mean.
    tolerance = 0.15 * x.std() / np.sqrt(n)
    assert found == pytest.approx(np.array(resampled.confidence_interval) - x.mean(), abs=tolerance)


def test_limits_of_many_sets_are_those_of_single_sets():
    sets = RNG.standard_normal((3, 2, 20))
    low, high = bca_limits(sets, 0.95)
    assert low.shape == high.shape == (3, 2)
    single = bca_limits(sets[2, 1], 0.95)
    assert (low[2, 1], high[2, 1]) == pytest.approx(single, rel=1e-12)


def test_limits_of_shifted_and_scaled_values():
    x = SETS["lognormal"]
    low, high = bca_limits(x, 0.95)
    # The bisection stops at 1e-7 of a tilt.
    assert bca_limits(3 - 2 * x, 0.95) == pytest.approx((3 - 2 * high, 3 - 2 * low), abs=1e-6)


@pytest.mark.parametrize("n", [20, 1000])
def test_limits_of_one_outlier_are_within_the_values(n):
    """Few distinct values, for which the saddlepoint approximation fails, have ordered finite limits."""
    x = np.zeros(n)
    x[0] = 1
    low, high = bca_limits(x, 0.999)
    assert -x.mean() * 3 < low < x.mean() < high < 1


def test_limits_of_equal_values_are_the_mean():
    assert bca_limits(np.full(20, 0.5), 0.95) == (0.5, 0.5)


def test_sign_flips_of_few_values_are_close_to_all_flips():
    values = np.array([0.5, 1.0, 0.2, -0.1, 0.9, 0.4])
    sums = np.array([np.abs(np.dot(signs, values)) for signs in product([-1, 1], repeat=6)])
    exact = (sums >= abs(values.sum()) - 1e-12).mean()
    assert sign_flip_p(values[None])[0] == pytest.approx(exact, abs=0.01)  # four standard errors of 9999 vectors


def test_adjusted_p_is_the_share_of_the_largest_statistic():
    values = RNG.normal(0.4, 1, size=(3, 20))
    single = np.array([sign_flip_p(row[None])[0] for row in values])
    adjusted = sign_flip_p(values)
    assert (adjusted >= single).all()
    assert (adjusted <= np.minimum(3 * single, 1) + 0.01).all()  # Bonferroni, and the error of 9999 vectors
    assert sign_flip_p(np.stack([values, values]))[1] == pytest.approx(adjusted, abs=0)


def test_p_of_zeros_is_one():
    assert sign_flip_p(np.zeros((2, 20))).tolist() == [1, 1]


def test_resolution_is_the_smallest_distance_of_distinct_values():
    assert resolution(np.array([0.3, 0.1, 0.1, 0.25]), 1.0) == pytest.approx(0.05)
    assert resolution(np.array([0.5, 0.5 + 1e-14]), 1.0) == 0.5
    assert resolution(np.zeros(3), 1.0) == 0


@pytest.mark.parametrize("n", [2, 3, 5, 20])
def test_rounding_does_not_affect_distinct_differences(n):
    sets = RNG.standard_normal((1000, n))
    assert (least_variance(sets, 1.0) < sets.var(-1, ddof=1)).all()


def test_rounding_errors_are_zero():
    assert without_rounding_errors(np.array([1e-14, -1e-14, 1e-3]), 1.0).tolist() == [0, 0, 1e-3]
