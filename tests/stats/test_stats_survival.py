"""Survival curves, medians and the log-rank test against scipy, exact probabilities and counted permutations."""

import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from dashpot.errors import ArgumentError
from dashpot.stats.survival import log_rank, log_rank_scores, median_steps, survival_curve
from dashpot.stats.times import Times

few = settings(max_examples=20, deadline=None)
runs = st.lists(st.tuples(st.integers(1, 12), st.booleans()), min_size=1, max_size=12)


def columns(pairs):
    return [step for step, _ in pairs], [reached for _, reached in pairs]


def censored(steps, reached):
    steps, reached = np.array(steps, float), np.array(reached)
    return stats.CensoredData(uncensored=steps[reached], right=steps[~reached])


@few
@given(runs)
def test_survival_curve_equals_scipy(pairs):
    steps, reached = columns(pairs)
    curve = survival_curve(steps, reached)
    expected = stats.ecdf(censored(steps, reached)).sf
    # A product of at most 12 factors.
    np.testing.assert_allclose(curve.share, expected.evaluate(curve.steps), atol=1e-13)


@pytest.mark.filterwarnings("ignore:The confidence interval is undefined")
def test_limits_between_the_ends_equal_scipy():
    steps, reached = [1, 2, 2, 4, 9, 9], [True] * 4 + [False] * 2
    curve = survival_curve(steps, reached, level=0.9)
    limits = stats.ecdf(censored(steps, reached)).sf.confidence_interval(0.9, method="log-log")
    inner = (curve.share > 0) & (curve.share < 1)
    np.testing.assert_allclose(curve.low[inner], limits.low.evaluate(curve.steps[inner]), rtol=1e-12)
    np.testing.assert_allclose(curve.high[inner], limits.high.evaluate(curve.steps[inner]), rtol=1e-12)


@few
@given(runs)
def test_survival_curve_decreases_within_its_limits(pairs):
    curve = survival_curve(*columns(pairs))
    assert curve.steps[0] == 0
    assert np.all(np.diff(curve.steps) > 0)
    assert np.all(np.diff(curve.share) <= 0)
    for values in (curve.low, curve.share, curve.high):
        assert np.all((values >= 0) & (values <= 1))
    assert np.all((curve.low <= curve.share) & (curve.share <= curve.high))
    assert np.all(curve.high - curve.low > 0)


@few
@given(runs, st.randoms(use_true_random=False))
def test_survival_curve_does_not_depend_on_the_order_of_runs(pairs, random):
    shuffled = random.sample(pairs, len(pairs))
    first, second = survival_curve(*columns(pairs)), survival_curve(*columns(shuffled))
    for name in ("steps", "share", "low", "high"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))
    assert median_steps(*columns(pairs)) == median_steps(*columns(shuffled))


def test_limits_without_events_are_exact_binomial_limits():
    """Zero of five runs reach the target: the share of misses is at least .025^(1/5)."""
    exact = stats.binomtest(5, 5).proportion_ci(0.95, method="exact")
    none = survival_curve([9] * 5, [False] * 5)
    every = survival_curve([4] * 5, [True] * 5)
    assert none.low.tolist() == pytest.approx([exact.low] * 2, rel=1e-9)
    assert none.high.tolist() == [1, 1]
    assert every.high[-1] == pytest.approx(1 - exact.low, rel=1e-9)
    assert every.low[-1] == 0


def test_curve_extends_to_the_end_of_censored_runs():
    curve = survival_curve([100, 400], [True, False])
    assert curve.steps.tolist() == [0, 100, 400]
    assert curve.share.tolist() == [1, 0.5, 0.5]


def test_one_run_has_wide_limits():
    curve = survival_curve([5], [True])
    assert curve.share.tolist() == [1, 0]
    assert curve.high[-1] - curve.low[-1] > 0.9


def test_missing_runs_are_omitted():
    assert survival_curve([5, math.nan], [True, False]).share.tolist() == [1, 0]
    assert median_steps([math.nan, 7], [False, True]) == 7
    assert np.isnan(survival_curve([], []).low).all()
    assert math.isnan(median_steps([math.nan], [False]))


@few
@given(st.lists(st.integers(1, 30), min_size=1, max_size=9))
def test_median_without_misses_is_the_sample_median(steps):
    assert median_steps(steps, [True] * len(steps)) == np.median(steps)


@pytest.mark.parametrize(("hits", "expected"), [(5, 30), (4, 30), (3, 30), (2, math.inf), (0, math.inf)], ids=str)
def test_median_is_infinite_if_at_most_half_of_the_runs_reach_the_target(hits, expected):
    steps = [10, 20, 30, 40, 50]
    assert median_steps(steps[:hits] + [60] * (5 - hits), [True] * hits + [False] * (5 - hits)) == expected


def test_median_of_exactly_half_is_infinite():
    assert median_steps([10, 20, 60, 60], [True, True, False, False]) == math.inf


def test_log_rank_scores_are_observed_minus_expected():
    steps, reached = np.array([1.0, 2, 2, 3, 4, 4]), np.array([True, True, False, True, True, False])
    scores = log_rank_scores(Times(steps, reached))
    group = np.array([True, False, True, False, True, False])
    expected = 0.0
    for step in np.unique(steps[reached]):
        events, risk = reached & (steps == step), steps >= step
        expected += (events & group).sum() - events.sum() * (risk & group).sum() / risk.sum()
    assert scores[group].sum() == pytest.approx(expected, rel=1e-12)
    assert scores.sum() == pytest.approx(0, abs=1e-12)


def test_log_rank_equals_counted_permutations():
    a, b = ([1, 2, 2, 5], [True, True, True, False]), ([2, 4, 5, 5], [True, True, False, False])
    steps, reached = np.array(a[0] + b[0], float), np.array(a[1] + b[1])
    scores = log_rank_scores(Times(steps, reached))
    observed = abs(scores[:4].sum())
    counted = [abs(scores[list(chosen)].sum()) >= observed - 1e-9 for chosen in combinations(range(8), 4)]
    assert log_rank(*a, *b) == pytest.approx(np.mean(counted), rel=1e-12)


def test_log_rank_with_many_runs_equals_scipy():
    rng = np.random.default_rng(0)
    a, b = np.ceil(8 * rng.exponential(size=15)), np.ceil(16 * rng.exponential(size=15))
    found = log_rank(np.minimum(a, 20), a <= 20, np.minimum(b, 20), b <= 20)
    expected = stats.logrank(censored(np.minimum(a, 20), a <= 20), censored(np.minimum(b, 20), b <= 20)).pvalue
    assert found == expected


def test_exact_p_value_is_close_to_scipy_for_ten_runs():
    rng = np.random.default_rng(1)
    a, b = rng.exponential(size=10), 3 * rng.exponential(size=10)
    exact = log_rank(a, [True] * 10, b, [True] * 10)
    # The normal approximation at ten runs deviates by about a tenth of the p-value.
    assert exact == pytest.approx(stats.logrank(a, b).pvalue, rel=0.4)


def test_log_rank_of_equal_groups_is_one():
    steps, reached = [3, 3, 6, 6, 6], [True, True, True, False, False]
    assert log_rank(steps, reached, steps, reached) == 1


@pytest.mark.parametrize("count", [3, 100])
def test_log_rank_of_runs_that_end_at_one_step_is_one(count):
    assert log_rank([5] * count, [True] * count, [5] * count, [True] * count) == 1


@pytest.mark.parametrize("count", [2, 3, 5])
def test_smallest_p_value_is_the_share_of_two_splits(count):
    found = log_rank([1] * count, [True] * count, [9] * count, [False] * count)
    assert found == pytest.approx(2 / math.comb(2 * count, count))


def test_log_rank_without_information_is_none():
    assert log_rank([9, 9], [False] * 2, [9, 9], [False] * 2) is None
    assert log_rank([1], [True], [2], [True]) is None
    assert log_rank([1, math.nan], [True, True], [2, 3], [True, True]) is None


@pytest.mark.parametrize(
    ("steps", "reached", "message"),
    [
        ([1, 2], [True], "same length"),
        ([[1, 2]], [[True, True]], "one-dimensional"),
        ([-1], [True], "got -1"),
        ([math.inf], [False], "got inf"),
    ],
)
@pytest.mark.parametrize("function", [survival_curve, median_steps], ids=lambda function: function.__name__)
def test_invalid_times_raise(function, steps, reached, message):
    with pytest.raises(ArgumentError, match=f"^{function.__name__}: .*{message}"):
        function(steps, reached)


def test_invalid_level_raises():
    with pytest.raises(ArgumentError, match="level must be a number in"):
        survival_curve([1], [True], level=95)
