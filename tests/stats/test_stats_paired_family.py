"""Simultaneous intervals of a family of paired differences."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from dashpot.errors import ArgumentError
from dashpot.stats.differences import paired_interval
from dashpot.stats.paired_family import paired_family


def tables(pairs: int, seeds: int, spread: float = 1.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    block = draw.standard_normal(seeds)
    return draw.standard_normal((pairs, seeds)) + block, spread * draw.standard_normal((pairs, seeds)) + block


def test_one_difference_has_the_paired_interval():
    first, second = tables(1, 5)
    [found] = paired_family(first, second)
    expected = paired_interval(first[0] - second[0])
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=1e-12)


def test_unequal_variances_have_at_least_bonferroni_intervals():
    first, second = tables(4, 6, spread=1e6)
    for found, one, other in zip(paired_family(first, second), first, second, strict=True):
        values = one - other
        half = stats.t.isf(0.05 / 8, 5) * values.std(ddof=1) / math.sqrt(6)
        assert found.high - found.estimate >= half * (1 - 1e-9)


def test_half_width_is_at_least_that_of_the_own_variance():
    first, second = tables(8, 4)
    for found, one, other in zip(paired_family(first, second), first, second, strict=True):
        half = stats.t.isf(0.0125, 3) * (one - other).std(ddof=1) / 2
        assert found.high - found.estimate >= half * (1 - 1e-12)


def test_from_20_seeds_the_intervals_are_resampled_at_the_joint_level():
    first, second = tables(2, 20)
    found = paired_family(first, second)[0]
    expected = paired_interval(first[0] - second[0], 0.975)
    assert (found.low, found.high, found.level) == (expected.low, expected.high, 0.95)


def test_missing_scores_and_equal_rows():
    nan = math.nan
    found = paired_family(
        [[1.0, nan, 2.0], [1.0, nan, nan], [nan] * 3, [1.0, 2.0, 3.0]], [[0.0, 1.0, 3.0]] * 3 + [[1.0, 2.0, 3.0]]
    )
    assert found[0].estimate == 0.0
    assert (found[1].estimate, found[1].high) == (1.0, math.inf)
    assert found[2] is None
    assert (found[3].low, found[3].high) == (0.0, 0.0)


@pytest.mark.parametrize(("first", "second"), [([1.0], [2.0]), ([[1.0]], [[1.0], [2.0]]), ([[math.inf]], [[1.0]])])
def test_invalid_tables_raise(first, second):
    with pytest.raises(ArgumentError, match="paired_family: first and second must be tables of one shape"):
        paired_family(first, second)


@pytest.mark.slow
@pytest.mark.parametrize(("pairs", "seeds"), [(3, 3), (8, 3), (8, 5)])
@pytest.mark.parametrize("spread", [1.0, 3.0])
def test_joint_error_rate_is_at_most_the_level(pairs, seeds, spread):
    runs = 400
    errors = sum(
        any(found.excludes(0.0) for found in paired_family(*tables(pairs, seeds, spread, seed))) for seed in range(runs)
    )
    # .05 plus three standard errors of a share of 400 runs
    assert errors / runs <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / runs)
