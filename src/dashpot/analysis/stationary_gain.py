"""Stationary variance of a weight on a quadratic, relative to the variance of the gradient."""

from __future__ import annotations

import numpy as np

from dashpot.analysis.closed_loop import by_product
from dashpot.analysis.rational_filter import RationalFilter, sum_of_squares


def variance_gain(section: RationalFilter, product: float, shrink: float) -> float:
    """Return Var w/(rate^2 noise) for white noise and a stable product rate * (h + coupled decay)."""
    form = section.first_order
    if form is None:
        return general_variance_gain(section, product, shrink)
    pole, zero, gain = form
    a = product * gain
    top = (1 + pole) * (1 - zero) ** 2 + a * zero * (1 - zero**2) + shrink * (2 * zero - pole * (1 + zero**2))
    at_one = shrink * (1 - pole) + a * (1 - zero)
    at_minus_one = (2 - shrink) * (1 + pole) - a * (1 + zero)
    return gain**2 * top / ((1 - pole * (1 - shrink) + a * zero) * at_one * at_minus_one)


def general_variance_gain(section: RationalFilter, product: float, shrink: float) -> float:
    """Return the same as `variance_gain` for a filter of any order, by a discrete Lyapunov equation."""
    loop = by_product(section, shrink).at(product)
    return sum_of_squares(np.concatenate(([0.0], section.numerator())), loop)
