"""Rational filters: gains, delay and responses against sums over the impulse response."""

import math

import numpy as np
import pytest
from golden_data import load

from dashpot.analysis.rational_filter import RationalFilter, impulse_response, sum_of_squares
from dashpot.errors import ArgumentError

PAIR = (0.6 + 0.5j, 0.6 - 0.5j)
FILTERS = (
    RationalFilter(),
    RationalFilter((0.0,), (0.9,), 0.1),
    RationalFilter((-0.4,), (0.8,), 2.0),
    RationalFilter((0.95,), (0.8,), 0.5),
    RationalFilter((0.3, -0.2), PAIR, 0.7),
    RationalFilter((), (0.5, 0.5, 0.5), 1.0),
    RationalFilter(PAIR, (0.4,), 1.0),
)


@pytest.mark.parametrize("section", FILTERS)
def test_gains_equal_sums_over_impulse_response(section):
    h = impulse_response(section.numerator(), section.denominator(), 400)  # remainder below 0.9^400 = 5e-19
    k = np.arange(400)
    assert section.impulse(400) == pytest.approx(h, rel=1e-12, abs=1e-15)
    assert section.dc_gain == pytest.approx(h.sum(), rel=1e-12)
    assert section.noise_gain == pytest.approx((h**2).sum(), rel=1e-12)
    assert section.mean_delay == pytest.approx((k * h).sum() / h.sum(), rel=1e-12, abs=1e-12)
    omega = np.array([0.0, 0.3, 1.7, math.pi])
    expected = (h * np.exp(-1j * omega[:, None] * k)).sum(axis=1)
    assert section.at(omega) == pytest.approx(expected, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("section", FILTERS[1:4])
def test_general_noise_gain_equals_closed_form(section):
    general = sum_of_squares(section.numerator(), section.denominator())
    assert general == pytest.approx(section.noise_gain, rel=1e-13)


def test_golden_filters_are_reproduced():
    for case in load("dynamics")["filters"]:
        gain = (1 - case["beta"]) / (1 - case["gamma"])
        section = RationalFilter((case["gamma"],), (case["beta"],), gain)
        response = section.at(np.array(case["omega"]))
        # The recorded values are sums over a long but finite impulse response.
        assert section.dc_gain == pytest.approx(case["dc"], rel=1e-12)
        assert section.noise_gain == pytest.approx(case["noise_gain"], rel=1e-10)
        assert section.mean_delay == pytest.approx(case["mean_delay"], rel=1e-10, abs=1e-12)
        assert abs(response) == pytest.approx(case["magnitude"], rel=1e-10)
        assert np.angle(response) == pytest.approx(case["phase"], abs=1e-10)


def test_product_of_filters_convolves_impulse_responses():
    product = FILTERS[1] * FILTERS[2]
    expected = np.convolve(FILTERS[1].impulse(30), FILTERS[2].impulse(30))[:30]
    assert product.impulse(30) == pytest.approx(expected, rel=1e-12)
    assert (product.order, product.first_order) == (2, None)


def test_mean_delay_without_dc_gain_is_none():
    assert RationalFilter((1.0,), (0.5,)).mean_delay is None


def test_stability_requires_poles_inside_unit_circle():
    assert RationalFilter(poles=(-0.99,)).is_stable
    assert not RationalFilter(poles=(1.0,)).is_stable


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"poles": 0.9}, "poles must be a sequence of numbers, got 0.9"),
        ({"poles": (math.nan,)}, "poles must be finite numbers, got nan"),
        ({"zeros": ("a",)}, "zeros must be finite numbers, got 'a'"),
        ({"zeros": (0.5j,)}, "complex zeros must be in conjugate pairs, got 0.5j alone"),
        ({"gain": math.inf}, "gain must be a finite number, got inf"),
    ],
)
def test_invalid_arguments_raise(arguments, message):
    with pytest.raises(ArgumentError, match=message.replace("(", r"\(")):
        RationalFilter(**arguments)


def test_long_impulse_response_of_slow_poles_equals_closed_form():
    n, pole = 5000, 0.999
    double = RationalFilter(poles=(pole, pole))
    k = np.arange(n)
    # The rounded coefficients of a double pole belong to poles that differ by a root of the machine epsilon.
    assert (abs(double.impulse(n) / ((k + 1) * pole**k) - 1)).max() < 1e-7
    # sum (k+1)^2 x^k = (1+x)/(1-x)^3 for x = pole^2
    assert double.noise_gain == pytest.approx((1 + pole**2) / (1 - pole**2) ** 3, rel=1e-7)


def test_moving_average_has_the_gains_of_a_mean():
    zeros = tuple(np.exp(2j * np.pi * k / 9) for k in range(1, 9))
    zeros = tuple(complex(z.real, z.imag) for z in zeros[:4]) + tuple(z.conjugate() for z in zeros[:4])
    mean = RationalFilter(zeros, (), 1 / 9)
    assert mean.impulse(11) == pytest.approx([1 / 9] * 9 + [0.0] * 2, abs=1e-12)
    assert (mean.noise_gain, mean.mean_delay) == (pytest.approx(1 / 9), pytest.approx(4.0))


def test_numpy_numbers_are_accepted():
    section = RationalFilter(np.array([0.25]), (np.float32(0.5),), np.float64(2.0))
    assert section == RationalFilter((0.25,), (0.5,), 2.0)
    assert type(section.gain) is float
