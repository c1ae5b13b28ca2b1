"""Expected best score after k trials, against subsets counted one by one."""

import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from dashpot.errors import ArgumentError
from dashpot.stats.best_of import _limits, expected_best, subset_weights

few = settings(max_examples=30, deadline=None)
scores = st.lists(st.floats(-10, 10, allow_subnormal=False), min_size=1, max_size=9)


@few
@given(scores, st.sampled_from(["max", "min"]))
def test_mean_equals_the_mean_over_all_subsets(values, direction):
    best = max if direction == "max" else min
    found = expected_best(values, direction)
    counted = [np.mean([best(x) for x in combinations(values, k)]) for k in found.trials]
    # Sums of at most 126 values of magnitude 10.
    np.testing.assert_allclose(found.mean, counted, atol=1e-12)


@few
@given(scores)
def test_mean_improves_with_trials_and_ends_at_the_best(values):
    found = expected_best(values, "max")
    assert np.all(np.diff(found.mean) >= -1e-12)
    assert found.mean[-1] == max(values)
    assert found.mean[0] == pytest.approx(np.mean(values), abs=1e-12)


@few
@given(scores)
def test_direction_only_changes_the_sign(values):
    up, down = expected_best(values, "max"), expected_best([-value for value in values], "min")
    np.testing.assert_array_equal(up.mean, -down.mean)
    np.testing.assert_array_equal(up.low, -down.high)
    np.testing.assert_array_equal(up.high, -down.low)


@few
@given(scores, st.randoms(use_true_random=False))
def test_order_of_trials_does_not_matter(values, random):
    first, second = expected_best(values, "max"), expected_best(random.sample(values, len(values)), "max")
    for name in ("mean", "low", "high"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))


@few
@given(scores.filter(lambda values: len(values) > 1))
def test_limits_are_ordered(values):
    found = expected_best(values, "max")
    assert np.all((found.low <= found.mean) & (found.mean <= found.high))


@pytest.mark.parametrize("n", [6, 8, 16, 40])
def test_limits_are_those_of_quantiles(n):
    """The coverage of two order statistics is a binomial probability."""
    values = np.arange(1.0, n + 1)
    low, high = _limits(values, 0.95)
    for k in range(1, n + 1):
        quantile = 0.5 ** (1 / k)
        above, below = stats.binom.sf(low[k - 1] - 1, n, quantile), stats.binom.cdf(high[k - 1] - 1, n, quantile)
        assert above >= 0.975
        assert stats.binom.sf(low[k - 1], n, quantile) < 0.975  # the next score is too large
        assert high[k - 1] == math.inf or below >= 0.975
        assert stats.binom.cdf(min(high[k - 1] - 2, n - 1), n, quantile) < 0.975


def test_limits_of_few_trials_are_infinite():
    found = expected_best([0.1, 0.4, 0.2, 0.3], "max")
    assert found.low[0] == -math.inf
    assert np.all(found.high == math.inf)


@pytest.mark.parametrize(("direction", "worst"), [("max", 0.2), ("min", 0.9)])
@pytest.mark.parametrize("lost", [math.nan, math.inf, -math.inf])
def test_trials_without_score_count_as_the_worst(direction, worst, lost):
    with_lost = expected_best([0.2, lost, 0.9, 0.5], direction)
    replaced = expected_best([0.2, worst, 0.9, 0.5], direction)
    np.testing.assert_array_equal(with_lost.mean, replaced.mean)
    np.testing.assert_array_equal(with_lost.low, replaced.low)


def test_one_trial_has_no_limits():
    found = expected_best([0.5], "max")
    assert (found.mean.tolist(), found.low.tolist(), found.high.tolist()) == ([0.5], [-math.inf], [math.inf])


@pytest.mark.parametrize("values", [[], [math.nan, math.nan]])
def test_without_scores_there_is_no_curve(values):
    assert expected_best(values, "max") is None


def test_large_budgets_do_not_overflow():
    weights = subset_weights(300)
    np.testing.assert_allclose(weights.sum(1), 1, rtol=1e-12)


@pytest.mark.parametrize(("direction", "level"), [("up", 0.95), ("max", 1.0)])
def test_invalid_arguments_raise(direction, level):
    with pytest.raises(ArgumentError, match=r"^expected_best: "):
        expected_best([1.0], direction, level=level)
