"""Behaviour of an error over time, from the roots of the characteristic polynomial."""

from __future__ import annotations

import cmath
import math
from collections.abc import Sequence

from dashpot.analysis.closed_loop import spectral_radius
from dashpot.analysis.result import text_of


def regime(roots: Sequence[complex], stable: bool) -> str:
    """Return the behaviour of an error in a few words, from the dominant roots.

    Args:
        roots: Roots z of the characteristic polynomial, largest modulus first.
        stable: Whether the error decays.

    >>> regime([0.9, 0.5], True), regime([0.5, 0.5], True), regime([0.5j, -0.5j], True)
    ('overdamped', 'critically damped', 'underdamped, oscillates with a period of 4 steps')
    """
    dominant = roots[0]
    if not stable:
        return _unstable(roots)
    if dominant == 0:
        return f"deadbeat, vanishes after {len(roots)} step{'s' if len(roots) > 1 else ''}"
    if dominant.imag:
        return f"underdamped, oscillates with a period of {_steps(roots)} steps"
    if len(roots) > 1 and roots[0] == roots[1]:
        return "critically damped"
    return "overdamped" if dominant.real > 0 else "alternates in sign"


def _unstable(roots: Sequence[complex]) -> str:
    dominant = roots[0]
    if abs(dominant) <= 1 + 1e-12:  # rounding of a root on the unit circle
        return "marginal, neither decays nor grows"
    if dominant.imag:
        return f"unstable, diverges with oscillations of a period of {_steps(roots)} steps"
    return f"unstable, diverges {'monotonically' if dominant.real > 0 else 'with alternating signs'}"


def _steps(roots: Sequence[complex]) -> str:
    return text_of(period(roots))


def period(roots: Sequence[complex]) -> float | None:
    """Return the period in steps of the dominant roots; None if they do not oscillate.

    >>> period([0.5j, -0.5j]), period([-0.5]), period([0.5])
    (4.0, 2.0, None)
    """
    angle = abs(cmath.phase(roots[0])) if roots and roots[0] != 0 else 0.0
    return 2 * math.pi / angle if angle else None


def half_life(roots: Sequence[complex]) -> float | None:
    """Return the steps in which an error is halved in the long run; None if it does not decay.

    >>> half_life([0.5]), half_life([0.0]), half_life([1.5])
    (1.0, 0.0, None)
    """
    radius = spectral_radius(list(roots))
    if radius >= 1:
        return None
    return math.log(0.5) / math.log(radius) if radius else 0.0
