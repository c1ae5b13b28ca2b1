"""The distribution of the studentized range, compared with scipy and with closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from dashpot.stats.studentized_range import studentized_range_cdf, studentized_range_quantile


@pytest.mark.parametrize("methods", [2, 3, 9, 100])
@pytest.mark.parametrize("degrees", [1, 2, 8, 891])
def test_cdf_equals_that_of_scipy(methods, degrees):
    values = [0.0, 2.0, 5.0, 40.0]
    expected = [stats.studentized_range.cdf(value, methods, degrees) for value in values]
    tolerance = 2e-6 if degrees < 3 else 1e-7  # stated error of the quadrature; scipy's own is below 1e-8
    assert studentized_range_cdf(np.array(values), methods, degrees) == pytest.approx(expected, abs=tolerance)


@pytest.mark.parametrize("degrees", [2, 4, 30])
@pytest.mark.parametrize("level", [0.95, 0.9875, 0.999])
def test_quantile_of_two_methods_is_that_of_student(degrees, level):
    expected = np.sqrt(2) * stats.t.isf((1 - level) / 2, degrees)
    # The error of the probability, 1e-7, divided by the density at the quantile, > 1e-5 here.
    assert studentized_range_quantile(level, 2, degrees) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(("methods", "degrees"), [(3, 2), (6, 20), (100, 891)])
def test_quantile_inverts_the_cdf(methods, degrees):
    q = studentized_range_quantile(0.95, methods, degrees)
    assert float(studentized_range_cdf(q, methods, degrees)) == pytest.approx(0.95, abs=1e-8)  # xtol 1e-10 of brentq


def test_cdf_of_large_values_is_one():
    assert studentized_range_cdf(np.array([1e3, 1e300]), 5, 16) == pytest.approx([1, 1], abs=1e-9)
