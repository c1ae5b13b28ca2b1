"""Characteristic polynomials of a method on a quadratic, and the range of a scale factor for which they are stable.

With curvature h, x = z^-1, H = B/A and the product s = rate (h + coupled_decay),

    D(x) = (1 - (1 - shrink) x) A(x) + s x B(x)

has the coefficients of the characteristic polynomial in z, highest power first. For a first-order filter,

    z^2 - (1 + pole - shrink - a) z + pole (1 - shrink) - a zero,        a = s gain.
"""

from __future__ import annotations

import cmath
import itertools
import math
from typing import NamedTuple

import numpy as np

from dashpot.analysis.rational_filter import Coefficients, RationalFilter, polynomial, product

_ON_CIRCLE = 1e-4  # multiple roots on the unit circle are accurate to a root of the machine epsilon


class Family(NamedTuple):
    """Polynomials base + s slope in x = z^-1, lowest power first, with accurate values at x = 1 and x = -1."""

    base: Coefficients
    slope: Coefficients
    base_at: tuple[float, float]
    slope_at: tuple[float, float]

    def at(self, s: float) -> Coefficients:
        """Return the coefficients for one scale factor."""
        n = max(len(self.base), len(self.slope))
        return np.pad(self.base, (0, n - len(self.base))) + s * np.pad(self.slope, (0, n - len(self.slope)))


def by_product(section: RationalFilter, shrink: float) -> Family:
    """Return the characteristic polynomials as a function of the product s = rate (h + coupled_decay)."""
    return Family(
        np.convolve(polynomial([1 - shrink]), section.denominator()),
        np.concatenate(([0.0], section.numerator())),
        (shrink * product(1, section.poles), (2 - shrink) * product(-1, section.poles)),
        (section.gain * product(1, section.zeros), -section.gain * product(-1, section.zeros)),
    )


def by_rate(section: RationalFilter, curvature: float, fixed_shrink: float, shrink_per_rate: float) -> Family:
    """Return the characteristic polynomials as a function of the rate; `curvature` includes the coupled decay."""
    still = by_product(section, fixed_shrink)
    moving = np.polyadd(
        curvature * section.numerator()[::-1],  # polyadd aligns the last coefficients
        shrink_per_rate * section.denominator()[::-1],
    )[::-1]
    return Family(
        still.base,
        np.concatenate(([0.0], moving)),
        still.base_at,
        (
            curvature * still.slope_at[0] + shrink_per_rate * product(1, section.poles),
            curvature * still.slope_at[1] - shrink_per_rate * product(-1, section.poles),
        ),
    )


def stable_range(family: Family) -> tuple[float, float] | None:
    """Return the ends (low, high) of the first open interval of stable s with high > 0, or None if there is none."""
    ranges = _second_order_range(family) if len(family.at(1.0)) <= 3 else general_ranges(family)
    positive = [item for item in ranges if item[1] > 0]
    return positive[0] if positive else None


def _second_order_range(family: Family) -> list[tuple[float, float]]:
    """Jury's conditions for z^2 + p1 z + p2: p(1) > 0, p(-1) > 0 and |p2| < 1, each linear in s."""
    p2, q2 = (float((*part, 0.0, 0.0, 0.0)[2]) for part in (family.base, family.slope))
    conditions = [*zip(family.base_at, family.slope_at, strict=True), (1 - p2, -q2), (1 + p2, q2)]
    low, high = -math.inf, math.inf
    for constant, slope in conditions:
        if slope > 0:
            low = max(low, -constant / slope)
        elif slope < 0:
            high = min(high, -constant / slope)
        elif constant <= 0:
            return []
    return [(low + 0.0, high)] if low < high else []  # + 0.0: no negative zero


def general_ranges(family: Family) -> list[tuple[float, float]]:
    """Return all open intervals of stable s in increasing order, for polynomials of any order.

    A root crosses the unit circle at x = exp(j omega) only if s = -base(x)/slope(x) is real, that is, at a root of
    base(x) slope(1/x) - base(1/x) slope(x).
    """
    edges = [-math.inf, *_crossings(family), math.inf]
    ranges: list[tuple[float, float]] = []
    for low, high in itertools.pairwise(edges):
        if spectral_radius(roots(family.at(_between(low, high)))) >= 1:
            continue
        if ranges and ranges[-1][1] == low:  # the root touches the circle without crossing it
            low = ranges.pop()[0]
        ranges.append((low, high))
    return ranges


def _between(low: float, high: float) -> float:
    if math.isinf(low):
        return high - 1 - abs(high) if math.isfinite(high) else 1.0
    return low + 1 + abs(low) if math.isinf(high) else (low + high) / 2


def _crossings(family: Family) -> list[float]:
    n = max(len(family.base), len(family.slope))
    base, slope = (np.pad(part, (0, n - len(part))) for part in (family.base, family.slope))
    mixed = np.convolve(base, slope[::-1])
    found = [-b / s for b, s in zip(family.base_at, family.slope_at, strict=True) if s != 0]
    odd = mixed - mixed[::-1]
    odd[abs(odd) < 1e-15 * abs(odd).max()] = 0.0  # a negligible leading coefficient overflows in the division by it
    for x in np.roots(odd):
        if abs(abs(x) - 1) < _ON_CIRCLE and abs(x.imag) > _ON_CIRCLE:
            unit = x / abs(x)
            below = complex(np.polyval(slope[::-1], unit))
            if abs(below) > 1e-12:
                found.append((-complex(np.polyval(base[::-1], unit)) / below).real)
    return sorted(set(found))


def roots(coefficients: Coefficients) -> list[complex]:
    """Return the roots z of a polynomial with the highest power first, largest modulus first.

    Quadratic polynomials are solved in closed form, so that a double root is exact.
    """
    if len(coefficients) == 3:
        found = _quadratic_roots(*map(float, coefficients))
    else:
        found = [complex(z) for z in np.roots(coefficients)]
        found += [0j] * (len(coefficients) - 1 - len(found))
    return sorted(found, key=lambda z: (-abs(z), -z.real, -z.imag))


def _quadratic_roots(a: float, b: float, c: float) -> list[complex]:
    b, c = b / a, c / a
    discriminant = b * b - 4 * c
    if abs(discriminant) <= 1e-14 * max(b * b, 4 * abs(c)):  # rounding of the coefficients of a double root
        return [complex(-b / 2)] * 2
    if discriminant < 0:
        root = (-b + cmath.sqrt(discriminant)) / 2
        return [root, root.conjugate()]
    large = (-b - math.copysign(math.sqrt(discriminant), b)) / 2
    return [complex(large), complex(c / large)]


def spectral_radius(found: list[complex]) -> float:
    """Return the largest modulus, by which an error is multiplied per step in the long run."""
    return max(map(abs, found), default=0.0)
