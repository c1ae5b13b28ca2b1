"""Ratio of the steps to a target: estimates, intervals with and without misses, symmetry."""

import math
from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from dashpot.errors import ArgumentError
from dashpot.stats.step_ratio import step_ratio

BUDGET = 12
few = settings(max_examples=15, deadline=None)
seeds = st.lists(st.tuples(st.integers(1, 16), st.integers(1, 16)), min_size=1, max_size=9)


def censored(values, budget=BUDGET):
    values = np.asarray(values, float)
    return np.minimum(values, budget), values <= budget


def ratio_of(a, b, budget=BUDGET, **options):
    return step_ratio(*censored(a, budget), *censored(b, budget), **options)


def limits(found):
    return found.low, found.estimate, found.high


def test_without_misses_equals_the_t_interval_of_log_ratios():
    a, b = [5, 8, 7, 9], [4, 5, 6, 4]
    expected = stats.ttest_rel(np.log(a), np.log(b)).confidence_interval(0.9)
    found = ratio_of(a, b, level=0.9)
    assert (found.low, found.high) == pytest.approx((math.exp(expected.low), math.exp(expected.high)), rel=1e-9)
    assert found.estimate == pytest.approx(np.prod(np.array(a) / b) ** 0.25, rel=1e-12)


@few
@given(seeds, st.sampled_from([0.0, 1.0]))
def test_exchanged_methods_have_the_inverse_ratio(pairs, spacing):
    a, b = zip(*pairs, strict=True)
    found, inverse = ratio_of(a, b, spacing=spacing), ratio_of(b, a, spacing=spacing)
    assert (found is None) == (inverse is None)
    assume(found is not None)
    with np.errstate(divide="ignore"):
        expected = 1 / np.array(limits(inverse)[::-1])
    # Logarithms and exponentials of numbers below 1e4; limits from one degree of freedom are larger.
    assert limits(found) == pytest.approx(tuple(expected), rel=1e-9)


@few
@given(seeds, st.randoms(use_true_random=False))
def test_order_of_seeds_does_not_matter(pairs, random):
    found = ratio_of(*zip(*pairs, strict=True), spacing=1)
    shuffled = ratio_of(*zip(*random.sample(pairs, len(pairs)), strict=True), spacing=1)
    assert (found is None) == (shuffled is None)
    assume(found is not None)
    assert limits(found) == pytest.approx(limits(shuffled), rel=1e-9)


@few
@given(seeds, st.floats(0.01, 1000))
def test_unit_of_steps_does_not_matter(pairs, unit):
    a, b = zip(*pairs, strict=True)
    found = ratio_of(a, b, spacing=1)
    scaled = ratio_of(np.array(a) * unit, np.array(b) * unit, BUDGET * unit, spacing=unit)
    assert (found is None) == (scaled is None)
    assume(found is not None)
    assert limits(found) == pytest.approx(limits(scaled), rel=1e-9)


@few
@given(seeds, st.sampled_from([0.0, 1.0]))
def test_interval_contains_the_estimate(pairs, spacing):
    found = ratio_of(*zip(*pairs, strict=True), spacing=spacing)
    assume(found is not None)
    assert 0 <= found.low <= found.estimate <= found.high
    assert found.low < found.high or spacing == 0


def accepted_by_hand(a, b, ratio, level):
    """Return whether the rank test does not reject a ratio, with all permutations or exchanges counted."""
    cap = BUDGET * min(1, 1 / ratio)
    values = np.array([x / ratio if x <= BUDGET else math.inf for x in a] + [x if x <= BUDGET else math.inf for x in b])
    values[values > cap] = math.inf
    ranks, n = stats.rankdata(values), len(a)
    differences = ranks[:n] - ranks[n:]
    if n < 7:
        half = ranks.sum() / 2
        sums = ranks[np.array(list(combinations(range(2 * n), n)))].sum(1) - half
        observed = ranks[:n].sum() - half
    else:
        sums = np.array(list(product((-1, 1), repeat=n))) @ differences
        observed = differences.sum()
    return np.mean(np.abs(sums) >= abs(observed) - 1e-9) > 1 - level


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ([5.3, 7.1, 20, 11.9, 9.7], [3.2, 4.1, 5.7, 6.6, 7.9]),
        ([20, 8.3, 9.1, 20, 6.5], [20, 20, 11.2, 8.9, 7.7]),
        ([4.1, 6.2, 7.3, 20, 9.9, 5.7, 8.8, 11.3], [3.5, 5.1, 7.9, 8.2, 6.1, 5.9, 20, 4.4]),
    ],
    ids=["5 seeds, misses of a", "5 seeds, misses of both", "8 seeds"],
)
def test_interval_with_misses_inverts_the_rank_test(a, b):
    found = ratio_of(a, b)
    grid = np.exp(np.linspace(math.log(0.05), math.log(20), 500))
    accepted = grid[[accepted_by_hand(a, b, ratio, 0.95) for ratio in grid]]
    step = grid[1] / grid[0]  # limits are between two points of the grid
    for limit, edge in ((found.low, accepted.min()), (found.high, accepted.max())):
        bounded = grid[0] < edge < grid[-1]
        assert (edge / step <= limit <= edge * step) if bounded else limit in (0, math.inf)


@pytest.mark.parametrize("n", [5, 8])
def test_method_without_hits_has_only_a_lower_limit(n):
    b = np.linspace(2, 4, n)
    found = ratio_of([20] * n, b)
    assert found.estimate == found.high == math.inf
    assert 2 < found.low < 6


@pytest.mark.parametrize("n", [2, 3])
def test_few_seeds_with_misses_have_no_limits(n):
    found = ratio_of([20] + [8] * (n - 1), [4] * n)
    assert (found.low, found.high) == (0, math.inf)
    assert found.estimate > 1


def test_one_seed_has_no_limits():
    assert limits(ratio_of([8], [4])) == (0, 2, math.inf)


def test_equal_methods_have_ratio_one():
    a = [5, 6, 7, 20, 8, 20, 9, 5]
    found = ratio_of(a, a, spacing=1)
    assert found.estimate == pytest.approx(1)
    assert found.low <= 1 <= found.high


def test_equal_steps_on_a_grid_have_limits_of_its_resolution():
    """All runs of a need 5 to 6 intervals, and all runs of b 2 to 3: the ratio is between 5/3 and 3."""
    found = ratio_of([6] * 5, [3] * 5, spacing=1)
    assert found.estimate == pytest.approx(5.5 / 2.5)
    assert found.low < 5.1 / 2.9
    assert found.high > 5.9 / 2.1


def test_middle_of_the_interval_removes_the_bias_of_the_grid():
    rng = np.random.default_rng(0)
    a, b = 6 * np.exp(0.2 * rng.standard_normal((2, 4000)))
    middle = ratio_of(np.ceil(a), np.ceil(b / 3), 99, spacing=1).estimate
    first = ratio_of(np.ceil(a), np.ceil(b / 3), 99).estimate
    # The standard error is 3 * .28/sqrt(4000) = .013; the curvature of the logarithm leaves a bias of a few percent.
    assert middle == pytest.approx(3, rel=0.04)
    assert first < 2.8


def test_ratio_is_none_without_information():
    assert ratio_of([20, 20], [20, 20]) is None
    assert ratio_of([], []) is None
    assert step_ratio([math.nan, 4], [True, True], [4, math.nan], [True, True]) is None
    assert step_ratio([500], [True], [100], [False]) is None


def test_missing_runs_drop_their_pair():
    a, b = [5, 8, 7, math.nan], [4, 5, 6, 3]
    found = step_ratio(a, [True, True, True, False], b, [True] * 4)
    assert limits(found) == limits(ratio_of(a[:3], b[:3]))


def test_targets_met_at_step_zero_do_not_raise():
    found = ratio_of([0, 2, 2], [0, 4, 4])
    assert 0 < found.estimate < 1
    assert ratio_of([0, 0], [0, 0]).estimate == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [({"level": 2}, "level must be"), ({"spacing": -1}, "spacing must be")],
    ids=["level", "spacing"],
)
def test_invalid_options_raise(options, message):
    with pytest.raises(ArgumentError, match=f"^step_ratio: {message}"):
        ratio_of([1, 2], [3, 4], **options)


def test_different_numbers_of_seeds_raise():
    with pytest.raises(ArgumentError, match="same seeds, got 2 and 1 runs"):
        step_ratio([1, 2], [True, True], [3], [True])
