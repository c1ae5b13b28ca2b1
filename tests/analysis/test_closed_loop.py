"""Ranges of stable scale factors: closed forms against roots, and filters of higher order."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dashpot.analysis import modes
from dashpot.analysis.closed_loop import by_product, by_rate, general_ranges, roots, spectral_radius, stable_range
from dashpot.analysis.rational_filter import RationalFilter

PAIR = (0.6 + 0.5j, 0.6 - 0.5j)
poles = st.floats(0, 0.999)
zeros = st.floats(-3, 0.999)
shrinks = st.one_of(st.just(0.0), st.floats(1e-3, 1.5))


def first(ranges):
    """Return the first range with positive values, or None."""
    return next((item for item in ranges if item[1] > 0), None)


def radius(family, s):
    return spectral_radius(roots(family.at(s)))


@settings(max_examples=10, deadline=None)
@given(pole=poles, zero=zeros, shrink=shrinks)
def test_closed_form_equals_crossings_of_roots(pole, zero, shrink):
    family = by_product(RationalFilter((zero,), (pole,)), shrink)
    closed, searched = stable_range(family), first(general_ranges(family))
    assert (closed is None) == (searched is None)
    if closed is not None:
        # The crossings are accurate to a root of the machine epsilon where two of them coincide.
        assert closed == pytest.approx(searched, rel=1e-6, abs=1e-6)


@settings(max_examples=25, deadline=None)
@given(pole=poles, zero=zeros, shrink=shrinks, share=st.floats(0.001, 0.999))
def test_inside_of_range_is_stable_and_outside_is_not(pole, zero, shrink, share):
    family = by_product(RationalFilter((zero,), (pole,)), shrink)
    bounds = stable_range(family)
    if bounds is None:
        assert radius(family, 1e-3) >= 1
        return
    low, high = max(bounds[0], 0.0), bounds[1]
    assert radius(family, low + share * (high - low)) < 1 + 1e-9  # a slow root is 1 within rounding
    assert radius(family, high * 1.001) > 1 - 1e-9


@pytest.mark.parametrize(
    "section",
    [
        RationalFilter((), (0.9, 0.8), 0.02),
        RationalFilter((0.2,), PAIR, 0.1),
        RationalFilter(PAIR, (0.9, 0.5), 0.1),
        RationalFilter((0.99, 0.98), (0.5, 0.3), 1.0),
        RationalFilter((), (0.9, 0.9, 0.9), 1e-3),
    ],
)
@pytest.mark.parametrize("shrink", [0.0, 0.05])
def test_ranges_of_higher_orders_equal_scan_of_roots(section, shrink):
    family = by_product(section, shrink)
    low, high = stable_range(family)
    scan = np.linspace(1e-4, 1.5, 101) * high
    stable = np.array([radius(family, s) < 1 for s in scan])
    end = np.argmin(stable)
    assert low <= scan[0]
    assert scan[end - 1] <= high <= scan[end]


def test_scale_by_rate_equals_scale_by_product_without_decay():
    section = RationalFilter((0.3, 0.1), (0.8, 0.5), 0.5)
    rate, product = stable_range(by_rate(section, 4.0, 0.0, 0.0)), stable_range(by_product(section, 0.0))
    assert product[1] == pytest.approx(4 * rate[1], rel=1e-12)


def test_scale_by_rate_includes_decoupled_decay():
    section = RationalFilter((0.3,), (0.8, 0.5), 0.5)
    rate = stable_range(by_rate(section, 4.0, 0.01, 0.2))[1]
    assert radius(by_product(section, 0.01 + 0.2 * rate), 4 * rate) == pytest.approx(1.0, abs=1e-9)


def test_overshooting_decay_is_never_stable():
    assert stable_range(by_product(RationalFilter((0.0,), (0.9,)), 2.5)) is None


def test_touching_crossing_does_not_split_a_range():
    """With equal pole and zero, the cancelled root is inside, and the range is that of the plain method."""
    family = by_product(RationalFilter((0.5, 0.2), (0.5, 0.2)), 0.0)
    assert first(general_ranges(family)) == pytest.approx((0.0, 2.0))


@pytest.mark.parametrize(
    ("coefficients", "expected"),
    [
        ([1.0, -1.8, 0.81], [0.9, 0.9]),
        ([1.0, 0.0, 0.0], [0.0, 0.0]),
        ([1.0, 0.0, 0.25], [0.5j, -0.5j]),
        ([2.0, -1.0], [0.5]),
        ([1.0, -1e8, 1.0], [1e8, 1e-8]),
        ([1.0, 0.0, 0.0, -8.0], [2.0, -1 + 3**0.5 * 1j, -1 - 3**0.5 * 1j]),
    ],
)
def test_roots_are_sorted_and_accurate(coefficients, expected):
    found = roots(np.array(coefficients))
    assert np.sort_complex(found) == pytest.approx(np.sort_complex(expected), rel=1e-12, abs=1e-12)


def test_regime_of_slowly_growing_oscillation():
    assert modes.regime([1.1j, -1.1j], False) == "unstable, diverges with oscillations of a period of 4 steps"
    assert modes.half_life([1.1]) is None
