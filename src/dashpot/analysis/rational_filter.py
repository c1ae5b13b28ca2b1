"""Rational filters of any order, by gain, zeros and poles."""

from __future__ import annotations

import cmath
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dashpot.constraints import plain, shown
from dashpot.errors import ArgumentError

_BLOCK = 1024
_DOUBLINGS = 60  # 2^60 terms, more than a pole that differs from 1 by rounding requires

Coefficients = NDArray[np.float64]
"""Coefficients of a polynomial in x = z^-1, lowest power first."""


@dataclass(frozen=True)
class RationalFilter:
    """Causal filter with real coefficients.

        H(z) = gain prod_i (1 - zeros[i] z^-1) / prod_i (1 - poles[i] z^-1)

    Args:
        zeros: Zeros; complex zeros in conjugate pairs.
        poles: Poles; complex poles in conjugate pairs.
        gain: Weight of the newest input.

    Raises:
        ArgumentError: If a number is not finite, or a complex zero or pole lacks its conjugate.

    Example:
        >>> nesterov = RationalFilter(zeros=(0.45,), poles=(0.9,), gain=1.5)
        >>> nesterov.impulse(3)
        array([1.5   , 0.675 , 0.6075])
        >>> (nesterov * nesterov).order
        2
    """

    zeros: tuple[complex, ...] = ()
    poles: tuple[complex, ...] = ()
    gain: float = 1.0

    def __post_init__(self) -> None:
        for name in ("zeros", "poles"):
            object.__setattr__(self, name, _roots(name, getattr(self, name)))
        object.__setattr__(self, "gain", plain(self.gain))
        if isinstance(self.gain, bool) or not isinstance(self.gain, (int, float)) or not math.isfinite(self.gain):
            raise ArgumentError(f"RationalFilter: gain must be a finite number, got {shown(self.gain)}.")

    def __mul__(self, other: RationalFilter) -> RationalFilter:
        """Return the filter that applies one filter after the other."""
        return RationalFilter(self.zeros + other.zeros, self.poles + other.poles, self.gain * other.gain)

    @property
    def order(self) -> int:
        """Number of stored samples."""
        return max(len(self.zeros), len(self.poles))

    @property
    def is_stable(self) -> bool:
        """Whether the impulse response decays, which requires all poles inside the unit circle."""
        return all(abs(pole) < 1 for pole in self.poles)

    @property
    def first_order(self) -> tuple[float, float, float] | None:
        """Pole, zero and gain if there is at most one real pole and one real zero; otherwise None."""
        if len(self.zeros) > 1 or len(self.poles) > 1:
            return None
        pole, zero = (*self.poles, 0.0)[0], (*self.zeros, 0.0)[0]
        return float(pole.real), float(zero.real), self.gain

    def reduced(self) -> RationalFilter:
        """Return the filter without pairs of an equal pole and zero, which cancel.

        >>> RationalFilter((0.9, 0.2), (0.9, 0.5)).reduced()
        RationalFilter(zeros=(0.2,), poles=(0.5,), gain=1.0)
        """
        zeros, poles = list(self.zeros), list(self.poles)
        for pole in self.poles:
            if pole in zeros:
                zeros.remove(pole)
                poles.remove(pole)
        return RationalFilter(tuple(zeros), tuple(poles), self.gain)

    def numerator(self) -> Coefficients:
        """Return the coefficients of gain prod(1 - zero x), x = z^-1, lowest power first."""
        return self.gain * polynomial(self.zeros)

    def denominator(self) -> Coefficients:
        """Return the coefficients of prod(1 - pole x), x = z^-1, lowest power first."""
        return polynomial(self.poles)

    @property
    def dc_gain(self) -> float:
        """Response to a constant input of 1, gain prod(1 - zero)/prod(1 - pole)."""
        return self.gain * product(1, self.zeros) / product(1, self.poles)

    @property
    def mean_delay(self) -> float | None:
        """Mean of k under the weights h_k/sum(h), sum pole/(1 - pole) - sum zero/(1 - zero); None if sum(h) is 0."""
        if self.dc_gain == 0:
            return None
        ages = [p / (1 - p) for p in self.poles] + [-q / (1 - q) for q in self.zeros]
        total = math.fsum(age.real for age in ages)
        return total if abs(total) > 1e-12 * max(map(abs, ages), default=0.0) else 0.0  # rounding of terms that cancel

    @property
    def noise_gain(self) -> float:
        """Variance of the output for white noise of variance 1, the sum of h_k^2."""
        form = self.first_order
        if form is None:
            return sum_of_squares(self.numerator(), self.denominator())
        pole, zero, gain = form
        return gain**2 * (1 + (pole - zero) ** 2 / ((1 - pole) * (1 + pole)))

    def impulse(self, n: int) -> Coefficients:
        """Return h_0, ..., h_(n-1), the weights of the newest and of older inputs."""
        form = self.first_order
        if form is None:
            return impulse_response(self.numerator(), self.denominator(), n)
        pole, zero, gain = form
        powers = np.power(pole, np.arange(max(n - 1, 0)))
        return np.concatenate(([gain], gain * (pole - zero) * powers))[:n]

    def at(self, omega: float | NDArray[np.float64]) -> NDArray[np.complex128]:
        """Return the frequency response H(exp(j omega)), with omega in radians per step."""
        x = np.exp(-1j * np.asarray(omega, dtype=float))
        value = np.full(x.shape, self.gain, dtype=complex)
        for zero in self.zeros:
            value = value * (1 - zero * x)
        for pole in self.poles:
            value = value / (1 - pole * x)
        return value


def _roots(name: str, given: Sequence[complex]) -> tuple[complex, ...]:
    if isinstance(given, (str, bytes)) or not isinstance(given, (Sequence, np.ndarray)):
        raise ArgumentError(f"RationalFilter: {name} must be a sequence of numbers, got {shown(given)}.")
    values = tuple(map(plain, given))
    for value in values:
        if isinstance(value, bool) or not isinstance(value, (int, float, complex)) or not cmath.isfinite(value):
            raise ArgumentError(f"RationalFilter: {name} must be finite numbers, got {shown(value)}.")
    roots = tuple(value.real if value.imag == 0 else complex(value) for value in map(complex, values))
    for root in roots:
        if root.imag and roots.count(root) != roots.count(root.conjugate()):
            raise ArgumentError(f"RationalFilter: complex {name} must be in conjugate pairs, got {shown(root)} alone.")
    return roots


def polynomial(roots: Sequence[complex]) -> Coefficients:
    """Return the coefficients of prod(1 - root x), lowest power first.

    >>> polynomial([0.5, -0.25])
    array([ 1.   , -0.25 , -0.125])
    """
    return np.atleast_1d(np.real(np.poly(np.asarray(roots)))).astype(float)


def product(x: float, roots: Sequence[complex]) -> float:
    """Return prod(1 - root x), without the rounding errors of a sum of coefficients.

    >>> product(1, [0.5, 0.75])
    0.125
    """
    return float(np.real(np.prod([1 - root * x for root in roots]))) if roots else 1.0


def impulse_response(numerator: Coefficients, denominator: Coefficients, n: int) -> Coefficients:
    """Return the first `n` coefficients of the power series numerator/denominator; denominator[0] must be 1.

    With the state of the canonical form, s' = F s + e x and y = c s + h_0 x, the coefficients are h_i = c F^(i-1) e.
    They are computed in blocks: the rows c, c F, ..., c F^(m-1) are multiplied by the states e, F^m e, F^2m e, ...
    """
    transition, output, first = _state_space(numerator, denominator)
    order = len(output)
    if n == 0 or order == 0:
        return np.concatenate(([first], np.zeros(max(n - 1, 0))))[:n]
    rows = [output]
    for _ in range(min(n, _BLOCK) - 1):
        rows.append(rows[-1] @ transition)
    block, jump = np.array(rows), np.linalg.matrix_power(transition, len(rows))
    state, parts = np.eye(order)[0], [np.array([first])]
    for _ in range(0, n - 1, len(rows)):
        parts.append(block @ state)
        state = jump @ state
    return np.concatenate(parts)[:n]


def _state_space(numerator: Coefficients, denominator: Coefficients) -> tuple[Coefficients, Coefficients, float]:
    """Return F, c and h_0 of the canonical form, whose input enters the first state."""
    n = max(len(numerator), len(denominator)) - 1
    b = np.pad(numerator, (0, n + 1 - len(numerator)))
    a = np.pad(denominator, (0, n + 1 - len(denominator)))
    transition = np.vstack([-a[1:], np.eye(n)[:-1]]) if n else np.zeros((0, 0))
    return transition, b[1:] - a[1:] * b[0], float(b[0])


def sum_of_squares(numerator: Coefficients, denominator: Coefficients) -> float:
    """Return the sum of the squared impulse response of a stable filter.

    In canonical form, it is c P c^T + h_0^2 with the covariance P = sum F^i e e^T F^iT of the state. The number of
    terms is doubled in each iteration: P <- P + F P F^T, F <- F F.

    >>> round(sum_of_squares(np.array([0.1]), np.array([1.0, -0.9])), 12)
    0.052631578947
    """
    transition, output, first = _state_space(numerator, denominator)
    covariance = np.zeros_like(transition)
    if len(output):
        covariance[0, 0] = 1.0
    for _ in range(_DOUBLINGS):
        added = transition @ covariance @ transition.T
        covariance = covariance + added
        if abs(added).max(initial=0.0) <= 1e-17 * abs(covariance).max(initial=0.0):
            break
        transition = transition @ transition
    return float(output @ covariance @ output + first**2)
