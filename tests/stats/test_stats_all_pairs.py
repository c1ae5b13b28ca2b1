"""Simultaneous comparison of all pairs of methods."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
from scipy import stats

from dashpot.errors import ArgumentError
from dashpot.stats.all_pairs import all_pairs
from dashpot.stats.differences import paired_interval, paired_p

RNG = np.random.default_rng(3)
NOISE = RNG.standard_normal((4, 25))
NOISE -= 2 * (np.arange(4)[:, None] == 0)


@pytest.mark.parametrize("n", [2, 5, 25])
def test_two_methods_are_compared_by_paired_differences(n):
    scores = NOISE[:2, :n]
    found, expected = all_pairs(scores), paired_interval(scores[0] - scores[1])
    interval = found.intervals[0][1]
    assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high), rel=1e-12)
    assert found.p[0][1] == pytest.approx(paired_p(scores[0] - scores[1]), rel=1e-9)
    assert found.sd[0][1] == pytest.approx((scores[0] - scores[1]).std(ddof=1))


@pytest.mark.parametrize("n", [3, 5, 12])
def test_intervals_of_equal_variances_are_tukeys_or_the_own_ones(n):
    found = all_pairs(NOISE[:, :n])
    assert found.method == "Tukey, seeds as blocks"
    scores = NOISE[:, :n] - NOISE[:, :n].mean(0)
    variance = ((scores - scores.mean(1, keepdims=True)) ** 2).sum() / (3 * (n - 1))
    tukey = stats.studentized_range.ppf(0.95, 4, 3 * (n - 1)) * math.sqrt(variance / n)
    for i, j in combinations(range(4), 2):
        own = stats.t.isf(0.0125, n - 1) * (scores[i] - scores[j]).std(ddof=1) / math.sqrt(n)
        interval = found.intervals[i][j]
        assert interval.high - interval.estimate == pytest.approx(max(tukey, own), rel=1e-4)  # quadrature of q


@pytest.mark.diagonal
@pytest.mark.parametrize("level", [0.95, 0.9875])
@pytest.mark.parametrize("n", [4, 8, 25])
@pytest.mark.parametrize("scale", [1, 8])
def test_p_is_small_exactly_if_the_interval_excludes_zero(n, level, scale):
    """Single comparisons are near the limits: shifts are multiples of the half-width."""
    scores = NOISE[:, :n] * np.array([1, 1, 1, scale])[:, None]
    for i, j in combinations(range(4), 2):
        interval = all_pairs(scores, level).intervals[i][j]
        for factor in (0.98, 1.02):
            shifted = scores.copy()
            shifted[i] += factor * (interval.estimate - interval.low) - interval.estimate
            found = all_pairs(shifted, level)
            assert found.intervals[i][j].excludes(0) == (factor > 1)
            assert found.separated(i, j) == (factor > 1)
            assert (found.p[i][j] <= 1 - level) == (factor > 1)


@pytest.mark.parametrize(("factor", "apart"), [(20, ()), (1, [3])])
def test_method_with_a_different_variance_is_not_pooled(factor, apart):
    scores = NOISE[:, :8] * np.array([1, 1, 1, factor])[:, None]
    found, without = all_pairs(scores, apart=apart), all_pairs(scores[:3])
    assert "Student t with Bonferroni for the pairs of 1 method with a different variance" in found.method
    half = stats.t.isf(0.025 / 6, 7) * (scores[0] - scores[3]).std(ddof=1) / math.sqrt(8)
    interval = found.intervals[0][3]
    assert interval.high - interval.estimate == pytest.approx(half, rel=1e-9)
    widths = [x.intervals[0][1].high - x.intervals[0][1].low for x in (found, without)]
    assert widths[1] <= widths[0] <= 1.2 * widths[1]  # q of 4 methods is 12 % larger than that of 3


def test_two_seeds_or_two_pooled_methods_use_bonferroni():
    for scores, apart in ((NOISE[:3, :2], ()), (NOISE[:3, :6], [0])):
        found = all_pairs(scores, apart=apart)
        assert found.method == "Student t with Bonferroni"
        n = scores.shape[1]
        half = stats.t.isf(0.025 / 3, n - 1) * (scores[1] - scores[2]).std(ddof=1) / math.sqrt(n)
        assert found.intervals[1][2].high - found.intervals[1][2].estimate == pytest.approx(half, rel=1e-9)


def test_slightly_unequal_variances_widen_all_intervals():
    scores = NOISE[:, :8] * np.array([1, 1, 1, 3.5])[:, None]
    found = all_pairs(scores)
    assert "at least Student t with Bonferroni" in found.method
    half = stats.t.isf(0.025 / 6, 7) * (scores[0] - scores[3]).std(ddof=1) / math.sqrt(8)
    assert found.intervals[0][3].high - found.intervals[0][3].estimate >= half * (1 - 1e-9)


def test_intervals_are_antisymmetric_and_invariant_to_seed_effects():
    scores = NOISE[:, :6]
    found, shifted = all_pairs(scores), all_pairs(scores + 100 * RNG.standard_normal(6))
    for i, j in combinations(range(4), 2):
        a, b, c = found.intervals[i][j], found.intervals[j][i], shifted.intervals[i][j]
        assert (a.low, a.high) == (-b.high, -b.low)
        assert (a.low, a.high) == pytest.approx((c.low, c.high), rel=1e-9)
        assert found.p[i][j] == found.p[j][i]


@pytest.mark.parametrize("n", [2, 5, 25])
def test_methods_with_equal_scores_are_equal_and_count_once(n):
    scores = NOISE[[0, 0, 1], :n]
    found, two = all_pairs(scores), all_pairs(NOISE[:2, :n])
    equal = found.intervals[0][1]
    assert (equal.low, equal.high, found.p[0][1], found.separated(0, 1)) == (0, 0, 1, False)
    assert found.intervals[0][2] == found.intervals[1][2] == two.intervals[0][1]


@pytest.mark.parametrize("methods", [2, 3])
@pytest.mark.parametrize("n", [1, 2, 5, 25])
def test_constant_scores_are_equal(methods, n):
    found = all_pairs(np.full((methods, n), 0.1 + 0.2))
    assert not found.separated(0, 1)
    assert found.p[0][1] == (None if n == 1 else 1)


def test_rounding_errors_do_not_separate():
    """Sums in a different order differ by 1e-16 on every seed."""
    found = all_pairs([[0.1 + 0.2] * 10, [0.3] * 10])
    assert (found.intervals[0][1].estimate, found.separated(0, 1)) == (0, False)


@pytest.mark.parametrize(("n", "is_separated"), [(3, False), (5, True)])
def test_constant_differences_separate_from_some_seeds(n, is_separated):
    """Deterministic scores, and coincidences of rounded scores."""
    assert all_pairs([[0.5] * n, [0.6] * n, [0.7] * n]).separated(0, 1) == is_separated


def test_one_seed_has_no_interval():
    found = all_pairs([[0.5], [0.7]])
    interval = found.intervals[0][1]
    assert (interval.low, interval.high, found.p[0][1], found.sd[0][1]) == (-math.inf, math.inf, None, None)
    assert found.method == "no intervals: fewer than two seeds"


def test_missing_scores_omit_seeds_of_the_pair():
    scores = NOISE[:3, :8].copy()
    scores[0, 2] = scores[1, 5] = math.nan
    found = all_pairs(scores)
    assert found.seeds[0][1] == 6
    assert found.seeds[0][2] == 7
    known = np.delete(scores[0] - scores[1], [2, 5])
    assert found.intervals[0][1].estimate == pytest.approx(known.mean())
    assert "missing scores" in found.method


def test_missing_scores_barely_change_the_other_intervals():
    """A failed run must not remove the pooled variance."""
    scores = NOISE[:, :8].copy()
    before = all_pairs(scores).intervals[1][2]
    scores[0, 3] = math.nan
    after = all_pairs(scores).intervals[1][2]
    assert after.estimate == before.estimate
    assert (after.high - after.low) / (before.high - before.low) == pytest.approx(1, abs=0.2)


@pytest.mark.parametrize("n", [5, 25])
def test_methods_without_common_seeds_have_no_interval(n):
    scores = NOISE[:3, :n].copy()
    scores[0, 2:] = math.nan  # two seeds
    scores[1, :2] = math.nan  # the others
    found = all_pairs(scores)
    assert (found.intervals[0][1], found.p[0][1], found.seeds[0][1]) == (None, None, 0)
    assert found.p[1][2] is not None


def test_method_without_scores_does_not_affect_the_others():
    scores = np.concatenate([NOISE[:2, :5], np.full((1, 5), math.nan)])
    found = all_pairs(scores)
    assert found.intervals[0][2] is None
    assert found.intervals[0][1].high == all_pairs(NOISE[:2, :5]).intervals[0][1].high


@pytest.mark.parametrize(
    ("scores", "sentence"),
    [
        ([[0.5, 0.6]], "scores must have at least two methods and one seed, got an array of shape (1, 2)"),
        ([[], []], "scores must have at least two methods and one seed, got an array of shape (2, 0)"),
        ([[0.5, math.inf], [1, 2]], "scores must be finite or NaN, got inf"),
    ],
)
def test_invalid_scores_raise(scores, sentence):
    with pytest.raises(ArgumentError) as error:
        all_pairs(scores)
    assert str(error.value) == f"all_pairs: {sentence}."
