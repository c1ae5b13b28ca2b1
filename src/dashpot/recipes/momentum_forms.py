"""Conversion between the parametrizations of momentum and (pole, zero, gain).

The filter is H(z) = gain (1 - zero z^-1)/(1 - pole z^-1), and the step is w <- w - lr v.

| method                      | parameters   | pole | zero                       | gain     |
|-----------------------------|--------------|------|----------------------------|----------|
| plain                       | -            | 0    | 0                          | 1        |
| averaged momentum (EMA)     | beta         | beta | 0                          | 1 - beta |
| heavy ball, torch momentum  | mu           | mu   | 0                          | 1        |
| torch momentum, dampening   | mu, tau      | mu   | 0                          | 1 - tau  |
| Nesterov, torch             | mu           | mu   | mu/(1 + mu)                | 1 + mu   |
| QHM                         | beta, nu     | beta | (1-nu) beta/(1 - nu beta)  | 1-nu beta|

With dampening tau, torch weights the first gradient by 1 instead of 1 - tau. The resulting transient,
tau mu^(t-1) g_1, cannot be described by a gain.

Sources: Ma and Yarats, arXiv 1810.06801; torch.optim.SGD; Somefun, AutoSGM.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from dashpot.constraints import ARGUMENTS, Interval, Scalar, check
from dashpot.errors import ArgumentError
from dashpot.stages.filter import unit_gain

__all__ = [
    "Point",
    "autosgm_zero",
    "averaging_length",
    "ema",
    "heavy_ball",
    "momentum_correction",
    "nesterov",
    "pole_of_length",
    "qhm",
    "to_ema",
    "to_heavy_ball",
    "to_nesterov",
    "to_qhm",
]

_SAME = 1e-12  # relative tolerance for closed forms that differ by rounding


class Point(NamedTuple):
    """Filter parameters: pole, zero and gain."""

    pole: Scalar
    zero: Scalar
    gain: Scalar

    @property
    def dc_gain(self) -> Scalar:
        """DC gain of the filter, gain (1 - zero)/(1 - pole); the effective learning rate is lr times the DC gain.

        >>> heavy_ball(0.75).dc_gain, ema(0.75).dc_gain
        (4.0, 1.0)
        """
        return self.gain / unit_gain(self.pole, self.zero)


def ema(beta: Scalar) -> Point:
    """Return the filter of averaged momentum, m = beta m + (1 - beta) g.

    >>> ema(0.75)
    Point(pole=0.75, zero=0.0, gain=0.25)
    """
    check("ema", "beta", beta, ARGUMENTS["beta"])
    return Point(beta, 0.0, 1 - beta)


def heavy_ball(momentum: Scalar, dampening: Scalar = 0.0) -> Point:
    """Return the filter of torch's heavy ball, v = momentum v + (1 - dampening) g.

    >>> heavy_ball(0.9)
    Point(pole=0.9, zero=0.0, gain=1.0)
    """
    check("heavy_ball", "momentum", momentum, ARGUMENTS["momentum"])
    check("heavy_ball", "dampening", dampening, ARGUMENTS["dampening"])
    return Point(momentum, 0.0, 1 - dampening)


def nesterov(momentum: Scalar) -> Point:
    """Return the filter of torch's Nesterov momentum, g + momentum v after v = momentum v + g.

    >>> nesterov(1.0 / 3)
    Point(pole=0.3333333333333333, zero=0.25, gain=1.3333333333333333)
    """
    check("nesterov", "momentum", momentum, ARGUMENTS["momentum"])
    return Point(momentum, momentum / (1 + momentum), 1 + momentum)


def qhm(beta: Scalar, nu: Scalar) -> Point:
    """Return the filter of quasi-hyperbolic momentum, (1 - nu) g + nu m.

    Here, m is the averaged momentum of `ema`. The filter equals `ema` for nu = 1, and Nesterov momentum for nu = beta.

    >>> qhm(0.5, 0.5)
    Point(pole=0.5, zero=0.3333333333333333, gain=0.75)
    """
    check("qhm", "beta", beta, ARGUMENTS["beta"])
    check("qhm", "nu", nu, ARGUMENTS["nu"])
    return Point(beta, (1 - nu) * beta / (1 - nu * beta), 1 - nu * beta)


def to_ema(point: Point) -> tuple[float, float]:
    """Return (beta, factor) such that `point` equals `ema(beta)` with lr multiplied by `factor`.

    >>> to_ema(heavy_ball(0.75))
    (0.75, 4.0)
    """
    _need_zero("to_ema", point, 0.0)
    return float(point.pole), float(point.dc_gain)


def to_heavy_ball(point: Point) -> tuple[float, float]:
    """Return (momentum, factor) such that `point` equals `heavy_ball(momentum)` with lr multiplied by `factor`.

    >>> to_heavy_ball(ema(0.75))
    (0.75, 0.25)
    """
    _need_zero("to_heavy_ball", point, 0.0)
    return float(point.pole), float(point.gain)


def to_nesterov(point: Point) -> tuple[float, float]:
    """Return (momentum, factor) such that `point` equals `nesterov(momentum)` with lr multiplied by `factor`.

    >>> to_nesterov(qhm(0.5, 0.5))
    (0.5, 0.5)
    """
    _need_zero("to_nesterov", point, point.pole / (1 + point.pole))
    return float(point.pole), float(point.gain / (1 + point.pole))


def to_qhm(point: Point) -> tuple[float, float, float]:
    """Return (beta, nu, factor) such that `point` equals `qhm(beta, nu)` with lr multiplied by `factor`.

        nu = (pole - zero)/(pole (1 - zero))

    Raises:
        ArgumentError: If the pole is 0, for which nu is undetermined.

    >>> beta, nu, factor = to_qhm(nesterov(0.9))
    >>> round(beta, 12), round(nu, 12), round(factor, 12)
    (0.9, 0.9, 10.0)
    """
    if point.pole == 0:
        raise ArgumentError(f"to_qhm: pole must be a number in (0, 1), got {point.pole!r}.")
    nu = (point.pole - point.zero) / (point.pole * (1 - point.zero))
    return float(point.pole), float(nu), float(point.dc_gain)


def _need_zero(owner: str, point: Point, zero: Scalar) -> None:
    if not math.isclose(float(point.zero), float(zero), rel_tol=_SAME, abs_tol=_SAME):
        raise ArgumentError(f"{owner}: zero must be {float(zero):g} for pole {point.pole!r}, got {point.zero!r}.")


def pole_of_length(length: Scalar) -> Scalar:
    """Return the pole 1 - 1/length of an average over about `length` >= 1 samples.

    >>> pole_of_length(4)
    0.75
    """
    check("pole_of_length", "length", length, Interval(1, closed="left"))
    return 1 - 1 / length


def averaging_length(pole: Scalar) -> Scalar:
    """Return the averaging length N = 1/(1 - pole) in samples.

    >>> averaging_length(0.75)
    4.0
    """
    check("averaging_length", "pole", pole, ARGUMENTS["pole"])
    return 1 / (1 - pole)


def autosgm_zero(pole: float) -> float:
    """Return AutoSGM's recommended zero, 1 - sqrt(2 (1 - pole)).

    Of all filters with this pole and unit DC gain, it has the least ratio of noise gain to the weight of the newest
    gradient, as the derivative of the ratio shows; the source gives no derivation. Its noise gain is not the least:
    (1-pole)(1+zero)/(1+pole) is above the noise gains of Nesterov's zero, of a zero of 0, and of a zero of -1, which
    has the least, (1-pole)/2. For pole 0.9, the four are 0.0817, 0.0706, 0.0526 and 0.05.

    Args:
        pole: In [1/2, 1), so that the zero is not negative.

    >>> round(autosgm_zero(0.9), 4)
    0.5528
    """
    check("autosgm_zero", "pole", pole, Interval(0.5, 1, "left"))
    return 1 - math.sqrt(2 * (1 - pole))


def momentum_correction(lr: float, previous_lr: float) -> float:
    """Return lr/previous_lr, the factor by which to multiply the buffer v = mu v + lr g after a change of lr.

    With this correction, the form v = mu v + lr g, w = w - v is equivalent to torch's v = mu v + g, w = w - lr v even
    if lr varies.

    Source: Goyal et al., arXiv 1706.02677.

    >>> momentum_correction(0.05, previous_lr=0.1)
    0.5
    """
    check("momentum_correction", "previous_lr", previous_lr, Interval(0))
    check("momentum_correction", "lr", lr, ARGUMENTS["lr"])
    return lr / previous_lr
