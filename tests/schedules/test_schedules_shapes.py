"""Half-window shapes against golden values, and their values at both ends for all orders."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from schedules_support import golden

from dashpot.schedules import OriginalWindow
from dashpot.schedules.kronecker import point, sorted_point
from dashpot.schedules.shapes import SHAPES, stacked

GOLDEN = golden("windows_shape")
NAMES = tuple(SHAPES)
FALLING = [name for name in NAMES if name != "flat"]

# The golden numbers were formed by subtraction, which leaves an absolute error of some 1e-16 near the end of a shape.
CLOSE = {"rtol": 1e-10, "atol": 1e-14}


def orders(name):
    low, high = SHAPES[name].orders.low, SHAPES[name].orders.high
    return st.floats(max(low, 1e-6), min(high - 1e-6, 200.0))


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=lambda c: f"rcm{c['rcm']}-n{c['n']}")
def test_shape_equals_golden(case):
    values = [stacked(NAMES[case["rcm"]], u, case["n"]) for u in GOLDEN["f"]]
    np.testing.assert_allclose(values, case.get("values_normalised", case["values"]), **CLOSE)


@pytest.mark.parametrize("case", [c for c in GOLDEN["cases"] if c["rcm"] == 6], ids=lambda c: f"n{c['n']}")
def test_unnormalised_late_logistic_equals_golden(case):
    assert case["quirks"] == ["late_logistic_unnormalised"]
    window = OriginalWindow("late-logistic", steps=20, order=case["n"], unnormalised=True)
    np.testing.assert_allclose(window.table(20), case["values"][:20], **CLOSE)


def test_kronecker_points_equal_golden():
    np.testing.assert_allclose([point(k) for k in range(20)], GOLDEN["kronecker_first_20"], rtol=1e-10)


@pytest.mark.parametrize("count", [1, 2, 10, 1000])
def test_kronecker_points_are_distinct_and_fill_the_interval_evenly(count):
    points = np.array([sorted_point(k, count) for k in range(count)])
    assert sorted({point(k) for k in range(count)}) == points.tolist()
    grid = np.arange(count) / count
    discrepancy = max(np.abs(points - grid).max(), np.abs(points - grid - 1 / count).max())
    assert discrepancy <= (1 + math.log(count)) / count


@pytest.mark.parametrize("name", FALLING)
@settings(deadline=None, max_examples=25)
@given(data=st.data(), repeats=st.integers(1, 6))
def test_shape_falls_from_exactly_1_to_exactly_0(name, data, repeats):
    order = data.draw(orders(name))
    assert stacked(name, 0.0, order, repeats) == 1.0
    assert stacked(name, 1.0, order, repeats) == 0.0
    heights = np.array([stacked(name, u, order, repeats) for u in np.linspace(0, 1, 41).tolist()])
    assert np.all(np.diff(heights) <= 1e-15)  # rounding only


@pytest.mark.parametrize("name", ["exponential", "logistic", "late-logistic"])
@pytest.mark.parametrize("u", [0.1, 0.5, 0.9])
def test_orders_near_the_linear_limit_do_not_cancel(name, u):
    order = 1 - 1e-12 if name == "exponential" else 1e-12
    assert stacked(name, u, order) == pytest.approx(1 - u, rel=1e-11)


@pytest.mark.parametrize("name", ["logistic", "late-logistic"])
def test_steep_logistics_do_not_overflow(name):
    inflection = 0.5 if name == "logistic" else 7 / 8
    values = [stacked(name, u, 5000.0) for u in (0.0, inflection - 0.01, inflection, inflection + 0.01, 1.0)]
    assert values == pytest.approx([1.0, 1.0, 0.5, 0.0, 0.0])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("repeats", [2, 3, 5])
def test_staircase_is_continuous(name, repeats):
    if name == "logistic":  # the copies overlap: the shape is a sum of falling logistics, symmetric about the middle
        pairs = [stacked(name, u, 4, repeats) + stacked(name, 1 - u, 4, repeats) for u in (0.1, 0.3, 0.5)]
        assert pairs == pytest.approx([1.0] * 3, rel=1e-12)
        return
    ends = [stacked(name, j / repeats, SHAPES[name].order, repeats) for j in range(1, repeats)]
    top = 1 if name == "flat" else 0
    assert ends == pytest.approx([1 - (j - top) / repeats for j in range(1, repeats)], rel=1e-12)
