"""Verdicts, their sentences, and tie groups."""

from __future__ import annotations

import math

import numpy as np
import pytest

from dashpot.errors import ArgumentError
from dashpot.stats import Interval
from dashpot.stats.power import power, seeds_needed
from dashpot.stats.tie_groups import tie_groups
from dashpot.stats.verdicts import MANY_SEEDS, Verdict, interval_text, number, verdict, verdict_sentence

ABOVE, BELOW, ACROSS = Interval(0.02, 0.01, 0.03), Interval(-0.02, -0.03, -0.01), Interval(0.01, -0.01, 0.03)


@pytest.mark.parametrize(
    ("interval", "direction", "kind"),
    [
        (ABOVE, "max", "better"),
        (BELOW, "max", "worse"),
        (ABOVE, "min", "worse"),
        (BELOW, "min", "better"),
        (ACROSS, "max", "undecided"),
        (Interval(0.0, 0.0, 0.0), "max", "equivalent"),
        (Interval(0.1, -math.inf, math.inf), "max", "undecided"),
        (None, "max", "undecided"),
    ],
)
def test_kind(interval, direction, kind):
    assert verdict(interval, direction=direction).kind == kind


@pytest.mark.parametrize(
    ("interval", "margin", "kind"),
    [
        (ABOVE, 0.03, "equivalent"),
        (ABOVE, 0.029, "better"),
        (ACROSS, 0.03, "equivalent"),
        (ACROSS, 0.02, "undecided"),
        (Interval(0.0, 0.0, 0.0), 0.0, "equivalent"),
    ],
)
def test_interval_within_margin_is_equivalent(interval, margin, kind):
    assert verdict(interval, margin).kind == kind


def test_large_p_value_prevents_a_verdict():
    assert verdict(ABOVE, p=0.05).kind == "better"
    assert verdict(ABOVE, p=0.051).kind == "undecided"
    assert verdict(Interval(0.02, 0.01, 0.03, level=0.99), p=0.02).kind == "undecided"


def test_additional_seeds_reach_the_power():
    found = verdict(Interval(0.01, -0.005, 0.025), sd=0.02, seeds=7, methods=3)
    needed = found.more_seeds + 7
    assert power(0.01, 0.02, needed, methods=3) >= 0.8 > power(0.01, 0.02, needed - 1, methods=3)
    assert needed == seeds_needed(0.01, 0.02, methods=3)


def test_equivalence_can_need_fewer_seeds_than_separation():
    near_zero = Interval(0.0005, -0.02, 0.021)
    assert verdict(near_zero, sd=0.02, seeds=7).more_seeds == MANY_SEEDS
    assert verdict(near_zero, 0.015, sd=0.02, seeds=7).more_seeds < 30


@pytest.mark.parametrize(
    ("interval", "options"),
    [(ACROSS, {}), (ACROSS, {"sd": 0.02}), (Interval(0.1, -math.inf, math.inf), {"sd": 1.0, "seeds": 1})],
)
def test_additional_seeds_are_unknown_without_a_standard_deviation(interval, options):
    assert verdict(interval, **options) == Verdict("undecided", None)


@pytest.mark.parametrize("sd", [0.0, 1e-300, 0.5])
def test_additional_seeds_are_at_least_one(sd):
    assert verdict(Interval(0.1, -0.01, 0.2), sd=sd, seeds=3).more_seeds >= 1


def test_no_difference_needs_many_seeds():
    assert verdict(Interval(0.0, -0.1, 0.1), sd=0.1, seeds=5).more_seeds == MANY_SEEDS


@pytest.mark.parametrize(
    ("interval", "found", "options", "sentence"),
    [
        (ABOVE, Verdict("better"), {}, "a is better than b: accuracy higher by .020 (95 % interval .010 to .030)."),
        (BELOW, Verdict("worse"), {}, "b is better than a: accuracy higher by .020 (95 % interval .010 to .030)."),
        (
            BELOW,
            Verdict("better"),
            {"direction": "min"},
            "a is better than b: accuracy lower by .020 (95 % interval .010 to .030).",
        ),
        (
            Interval(-0.0004, -0.0031, 0.0023),
            Verdict("equivalent"),
            {"margin": 0.005},
            "a and b are equivalent within the margin of .005: accuracy of a lower by .0004 "
            "(95 % interval -.0023 to .0031).",
        ),
        (Interval(0.0, 0.0, 0.0), Verdict("equivalent"), {}, "a and b are equal: the same accuracy on all seeds."),
        (
            ACROSS,
            Verdict("undecided", 201),
            {},
            "a and b are undecided: accuracy of a higher by .010 (95 % interval -.010 to .030); "
            "more than 200 more seeds for a verdict.",
        ),
        (
            Interval(-0.25, -math.inf, math.inf),
            Verdict("undecided"),
            {},
            "a and b are undecided: accuracy of a lower by .25 on one seed, which allows no interval.",
        ),
        (None, Verdict("undecided"), {}, "a and b are undecided: no common seed."),
    ],
)
def test_sentence(interval, found, options, sentence):
    assert verdict_sentence("a", "b", "accuracy", interval, found, **options) == sentence


@pytest.mark.parametrize(
    ("interval", "text"),
    [
        (Interval(123.4, 100.0, 150.0), "123 (95 % interval 100 to 150)"),
        (Interval(2e-9, 1e-9, 3e-9), "2.0e-09 (95 % interval 1.0e-09 to 3.0e-09)"),
        (Interval(4e7, 3e7, 5e7), "4.00e+07 (95 % interval 3.00e+07 to 5.00e+07)"),
        (Interval(0.5, 0.5, 0.5), ".50 (95 % interval .50 to .50)"),
        (Interval(0.0, 0.0, 0.0), ".000 (95 % interval .000 to .000)"),
        (Interval(0.001, -1.5, 1.5, level=0.99), ".0 (99 % interval -1.5 to 1.5)"),
    ],
)
def test_interval_text(interval, text):
    assert interval_text(interval) == text


def test_number_has_no_negative_zero():
    assert [number(value, 2) for value in (-0.001, 0.0, -0.01, 10.0)] == [".00", ".00", "-.01", "10.00"]


@pytest.mark.parametrize(("margin", "direction"), [(-1.0, "max"), (math.nan, "max"), (None, "up")])
def test_invalid_arguments_raise(margin, direction):
    with pytest.raises(ArgumentError, match=r"^verdict: (margin|direction) must be "):
        verdict(ABOVE, margin, direction=direction)


def matrix(pairs, size=4):
    found = np.zeros((size, size), bool)
    for i, j in pairs:
        found[i, j] = found[j, i] = True
    return found


@pytest.mark.parametrize(
    ("pairs", "groups"),
    [
        ([], (1, 1, 1, 1)),
        ([(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)], (1, 2, 3, 4)),
        ([(0, 2), (0, 3)], (1, 1, 2, 2)),  # 1 and 2 are not separated either: a conflict
        ([(0, 3), (1, 3)], (1, 1, 1, 2)),
        ([(0, 1), (0, 2), (1, 2)], (1, 2, 3, 1)),  # 3 has a large variance and may be the best
        ([(1, 2), (0, 3)], (1, 1, 1, 2)),  # members of a group may differ: 1 is separated from 2
    ],
)
def test_groups_contain_all_methods_not_separated_from_their_best(pairs, groups):
    assert tie_groups(range(4), matrix(pairs)) == groups


def test_groups_are_returned_by_index_and_omit_methods_without_score():
    assert tie_groups([2, 0], matrix([(0, 2)])) == (2, None, 1, None)
    assert tie_groups([], matrix([])) == (None,) * 4


def test_additional_seeds_follow_the_width_of_the_interval():
    """A pooled or corrected interval can be wider than the standard deviation of its pair suggests."""
    narrow, wide = Interval(0.01, -0.0024, 0.0224), Interval(0.01, -0.24, 0.26)
    assert verdict(narrow, sd=0.01, seeds=5).more_seeds < 20
    assert verdict(wide, sd=0.01, seeds=5).more_seeds == MANY_SEEDS


@pytest.mark.parametrize("near", [0.004, 0.0004, 0.00004, 3e-6])
def test_a_limit_of_a_separated_pair_never_reads_as_zero(near):
    for interval in (Interval(0.014, near, 0.027), Interval(-0.014, -0.027, -near)):
        limits = interval_text(interval).split(" interval ")[1].rstrip(")").split(" to ")
        assert all(float(limit) != 0 for limit in limits)
    assert "-.001 to" in interval_text(Interval(0.013, -0.0012, 0.027))
