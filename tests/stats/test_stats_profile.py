"""Performance profiles against a fixed reference."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dashpot.errors import ArgumentError
from dashpot.stats.profile import performance_profile, reference_ratios

few = settings(max_examples=20, deadline=None)
entries = st.sampled_from([0.0, 10.0, 20.0, 40.0, 400.0, math.inf, math.nan])
tables = st.integers(1, 5).flatmap(
    lambda tasks: st.lists(st.lists(entries, min_size=tasks, max_size=tasks), min_size=2, max_size=5)
)


def same(first, second):
    return np.array_equal(first.ratio, second.ratio) and np.array_equal(first.share, second.share)


@few
@given(tables)
def test_adding_a_method_does_not_change_the_others(table):
    fewer = performance_profile(reference_ratios(table[:-1], 0))
    more = performance_profile(reference_ratios(table, 0))
    assert all(same(first, second) for first, second in zip(fewer, more[:-1], strict=True))


@few
@given(tables, st.randoms(use_true_random=False))
def test_order_of_tasks_does_not_matter(table, random):
    columns = list(zip(*table, strict=True))
    shuffled = list(zip(*random.sample(columns, len(columns)), strict=True))
    first, second = (performance_profile(reference_ratios(x, 0)) for x in (table, shuffled))
    assert all(same(a, b) for a, b in zip(first, second, strict=True))


@few
@given(tables)
def test_profiles_increase_within_zero_and_one(table):
    for profile in performance_profile(reference_ratios(table, 0)):
        assert np.all(np.diff(profile.ratio) > 0)
        assert np.all(np.diff(profile.share) > 0)
        assert np.all((profile.share > 0) & (profile.share <= 1))


def test_reference_has_ratio_one_on_every_task_it_solves():
    ratios = reference_ratios([[100, 300, math.inf], [50, math.inf, 10], [200, 300, math.inf]], 0)
    assert ratios.tolist() == [[1, 1, math.inf], [0.5, math.inf, 0], [2, 1, math.inf]]


def test_missing_results_are_not_misses():
    ratios = reference_ratios([[100, 100], [math.nan, 50]], 0)
    profile = performance_profile(ratios)[1]
    assert (profile.tasks, profile.at(0.5)) == (1, 1.0)


def test_profile_is_a_right_continuous_step_function():
    profile = performance_profile([[2.0, 2.0, 0.5, math.inf]])[0]
    assert [profile.at(ratio) for ratio in (0.4, 0.5, 1.9, 2.0, 1e9)] == [0, 0.25, 0.25, 0.75, 0.75]


def test_method_that_misses_every_task_has_share_zero():
    profile = performance_profile([[math.inf, math.inf]])[0]
    assert (profile.ratio.size, profile.at(1e9), profile.tasks) == (0, 0.0, 2)


def test_targets_met_at_step_zero_are_equal():
    assert reference_ratios([[0.0], [0.0], [10.0]], 0).tolist() == [[1], [1], [math.inf]]


@pytest.mark.parametrize("reference", [-1, 2])
def test_unknown_reference_raises(reference):
    with pytest.raises(ArgumentError, match="reference must be a row"):
        reference_ratios([[1.0], [2.0]], reference)


def test_vectors_raise():
    with pytest.raises(ArgumentError, match="must be a matrix"):
        performance_profile([1.0])
    with pytest.raises(ArgumentError, match="must be a matrix"):
        reference_ratios([1.0], 0)
