"""Change of the score at wrong learning rates."""

import math

import numpy as np
import pytest
from scipy import stats

from dashpot.errors import ArgumentError
from dashpot.stats.sensitivity import rate_sensitivity


def test_interval_is_that_of_the_paired_differences():
    changes = rate_sensitivity({10.0: [0.70, 0.72, 0.69]}, [0.81, 0.82, 0.83])
    expected = stats.ttest_rel([0.70, 0.72, 0.69], [0.81, 0.82, 0.83]).confidence_interval(0.95)
    found = changes[10.0]
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=1e-9)
    assert found.estimate == pytest.approx(np.mean([-0.11, -0.10, -0.14]), rel=1e-9)


def test_factors_are_in_increasing_order():
    scores = {10: [1.0, 1.1], 0.1: [0.9, 0.8], 2: [1.0, 1.0]}
    assert list(rate_sensitivity(scores, [1.0, 1.2])) == [0.1, 2, 10]


def test_missing_pairs_are_omitted():
    changes = rate_sensitivity({2: [math.nan, 0.8, 0.7], 10: [math.nan] * 3}, [0.9, 0.9, 0.9])
    assert list(changes) == [2]
    assert changes[2].estimate == pytest.approx(-0.15)


def test_one_seed_has_no_limits():
    change = rate_sensitivity({2: [0.8]}, [0.9])[2]
    assert (change.low, change.high) == (-math.inf, math.inf)


def test_different_numbers_of_scores_raise():
    with pytest.raises(ArgumentError, match="factor 2 must have 2 scores"):
        rate_sensitivity({2: [0.8]}, [0.9, 0.9])
