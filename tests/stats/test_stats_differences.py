"""Intervals and tests of paired differences and means."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from dashpot.errors import ArgumentError
from dashpot.stats.differences import mean_interval, paired_interval, paired_p

VALUES = np.random.default_rng(0).normal(0.5, 1, size=40)


@pytest.mark.parametrize("level", [0.9, 0.95, 0.99])
@pytest.mark.parametrize("n", [2, 3, 19])
def test_interval_and_p_below_20_values_are_those_of_the_t_test(n, level):
    found = paired_interval(VALUES[:n], level)
    expected = stats.ttest_1samp(VALUES[:n], 0)
    low, high = expected.confidence_interval(level)
    assert (found.low, found.high) == pytest.approx((low, high), rel=1e-12)
    assert found.method == "Student t"
    assert paired_p(VALUES[:n]) == pytest.approx(expected.pvalue, rel=1e-12)
    assert mean_interval(VALUES[:n], level).high == pytest.approx(high, rel=1e-12)


def test_interval_from_20_values_contains_students_and_bca():
    skewed = np.exp(VALUES)
    found, expected = paired_interval(skewed), stats.ttest_1samp(skewed, 0).confidence_interval()
    bca = stats.bootstrap((skewed,), np.mean, method="BCa", n_resamples=9999, rng=0).confidence_interval
    assert found.method == "BCa"
    assert found.low == pytest.approx(expected.low, rel=1e-12)
    assert found.high > max(expected.high, bca.high)  # the upper limit is that of BCa, widened


def test_p_from_20_values_is_that_of_a_permutation_test():
    values = VALUES[:20] - 0.3
    expected = stats.permutation_test(
        (values,), np.mean, permutation_type="samples", n_resamples=9999, vectorized=True, rng=0
    ).pvalue
    # Both are proportions of 9999 random sign vectors: standard error .005 at most, four of the difference.
    assert paired_p(values) == pytest.approx(expected, abs=4 * 0.005 * math.sqrt(2))


def test_fewer_than_two_differences_have_no_interval():
    assert paired_interval([]) is None
    assert paired_interval([0.5, math.nan]) is None
    assert paired_p([0.5]) is None


def test_missing_values_are_omitted():
    assert paired_interval([0.1, math.nan, 0.3, 0.2]) == paired_interval([0.1, 0.3, 0.2])
    assert paired_p([0.1, math.nan, 0.3, 0.2]) == paired_p([0.1, 0.3, 0.2])


@pytest.mark.parametrize("n", [3, 25])
def test_zero_differences_have_an_interval_of_zero_width(n):
    found = paired_interval([0.0] * n)
    assert (found.low, found.estimate, found.high, paired_p([0.0] * n)) == (0, 0, 0, 1)


@pytest.mark.parametrize(("n", "is_separated"), [(2, False), (3, False), (4, True), (25, True)])
def test_equal_differences_have_the_variance_of_rounding(n, is_separated):
    """Three equal differences prove nothing: accuracies on small test sets are equal by coincidence."""
    found = paired_interval([0.1] * n)
    assert found.excludes(0) == is_separated
    half = stats.t.isf(0.025, n - 1) * 0.1 / math.sqrt(6 * n)
    assert found.high - found.estimate == pytest.approx(half, rel=1e-9)
    assert (paired_p([0.1] * n) <= 0.05) == is_separated


def test_mean_of_one_score_has_infinite_limits():
    found = mean_interval([0.7])
    assert (found.low, found.estimate, found.high) == (-math.inf, 0.7, math.inf)


@pytest.mark.parametrize("n", [3, 25])
def test_mean_of_equal_scores_is_exact(n):
    found = mean_interval([0.7] * n)
    assert (found.low, found.estimate, found.high) == (0.7, 0.7, 0.7)


def test_invalid_arguments_raise():
    with pytest.raises(ArgumentError, match=r"^mean_interval: scores must contain a number, got none\.$"):
        mean_interval([math.nan])
    with pytest.raises(ArgumentError, match=r"^paired_interval: values must be finite or NaN, got inf\.$"):
        paired_interval([1, math.inf])
    with pytest.raises(ArgumentError, match=r"^paired_interval: level must be a number in \(0, 1\), got 1\.$"):
        paired_interval([1, 2], 1)
    with pytest.raises(ArgumentError, match=r"^paired_p: values must be a sequence of numbers, got 2 dimensions\.$"):
        paired_p(np.ones((2, 2)))
