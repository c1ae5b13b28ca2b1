"""Fluctuation of the loss at a constant rate: measured, and predicted from the noise of the gradients.

Near a minimum with Hessian H, a method with elementwise rates A = lr/d and a filter of DC gain k has the stationary
covariance C of the weights, for small rates

    A H C + C H A = k A Sigma A/B,

with the covariance Sigma of the gradients of single examples and B examples a batch. Multiplication by A^-1 and the
trace give the mean excess loss, without the curvature:

    E[L] - L_min = tr(H C)/2 = k tr(A Sigma)/(4 B)

Each direction i has T_i/2, with the temperature T_i = h_i C_ii = k A sigma_i^2/(2 B). The diagonal of the equation is
the virial theorem for each weight, E[(w - E w) g] = k A Var(g)/2, which `virial` checks.

The loss of a batch fluctuates for two reasons. Its examples are a sample: variance Var_1(loss)/B. And the loss at
Gaussian weights fluctuates with the variance sum_i T_i^2/2 = 2 (excess loss)^2/n, with the effective number of
directions n = (sum T_i)^2/sum T_i^2. New batches make the first part white; the second is correlated over the steps
1/(rate h) in which weights relax.

Source: Mandt, Hoffman and Blei, arXiv 1704.04289 (stationary covariance); Yaida, arXiv 1810.00004 (fluctuation-
dissipation relations). The trace, the virial for filters and denominators, and the split are derived here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dashpot.analysis.rational_filter import RationalFilter
from dashpot.analysis.result import text_of
from dashpot.analysis.stationary_gain import variance_gain

Array = NDArray[np.float64]

SHORTEST = 128
"""Smallest number of losses of an estimate."""
_LARGEST_TREND = 2.0  # standard deviations over the record
_LARGEST_BEND = 1.0
_LARGEST_CHANGE = 3.0  # of the variance, between the halves of the record


@dataclass(frozen=True)
class Fluctuation:
    """Result of `fluctuation`. Numbers are None if the losses are not stationary, with the reason in `reason`.

    Attributes:
        steps: Number of losses used, the latest ones.
        deviation: Standard deviation around the trend.
        sampling: Standard deviation of the white part: the noise of the loss of a batch at fixed weights.
        weights: Standard deviation of the part that is correlated over steps: the fluctuation of the weights.
        sampling_error: Standard error of `sampling`, approximate.
        slope: Trend per step.
        level: Mean loss.
        reason: Reason why numbers are None, or None.
    """

    steps: int
    deviation: float | None = None
    sampling: float | None = None
    weights: float | None = None
    sampling_error: float | None = None
    slope: float | None = None
    level: float | None = None
    reason: str | None = None


def fluctuation(losses: ArrayLike) -> Fluctuation:
    """Measure the fluctuation of batch losses around a linear trend, and split its variance into both sources.

    The trend is a median of slopes over half of the record. With the autocovariances c_0, c_1, c_2 of the residuals,
    the correlated part has the variance 2 c_1 - c_2, the extrapolation to lag 0, and the white part the rest. The
    longest of the latest 1, 1/2, 1/4 ... of the losses is used whose trend is at most 2 standard deviations and whose
    variance does not fall by more than a factor of 3.

    Args:
        losses: Losses of consecutive batches, oldest first.

    Returns:
        The standard deviations, or a reason.

    Example:
        >>> found = fluctuation(np.random.default_rng(0).normal(1.0, 0.1, size=512))
        >>> round(found.deviation, 2), found.weights < 0.05
        (0.1, True)
    """
    x = np.asarray(losses, dtype=np.float64)
    if len(x) < SHORTEST:
        return Fluctuation(len(x), reason=f"{len(x)} of the required {SHORTEST} losses exist.")
    if not np.isfinite(x).all():
        return Fluctuation(len(x), reason="A loss is not finite.")
    length, reason = len(x), None
    while length >= SHORTEST:
        found, why = _of_window(x[-length:])
        if found is not None:
            return found
        reason, length = reason or why, length // 2
    return Fluctuation(len(x), reason=reason)


def _of_window(x: Array) -> tuple[Fluctuation | None, str | None]:
    n, time = len(x), np.arange(len(x)) - (len(x) - 1) / 2
    slope = float(np.median(x[n - n // 2 :] - x[: n // 2]) / (n - n // 2))
    rest = x - slope * time
    rest -= np.median(rest)
    reason = _instationarity(rest, slope)
    if reason is not None:
        return None, reason
    rest -= rest.mean()
    c = [float(rest[: n - k] @ rest[k:]) / n for k in range(3)]
    correlated = min(max(2 * c[1] - c[2], 0.0), c[0])
    white = c[0] - correlated
    error = c[0] * math.sqrt(5 / n) / (2 * math.sqrt(white)) if white > 0 else None  # of 2 c_1 - c_2 for white noise
    return Fluctuation(n, math.sqrt(c[0]), math.sqrt(white), math.sqrt(correlated), error, slope, float(x.mean())), None


def _instationarity(rest: Array, slope: float) -> str | None:
    """Return the reason why losses are not stationary, or None, from their deviations from a line of this slope."""
    n = len(rest)
    spread = 1.4826 * float(np.median(np.abs(rest - np.median(rest))))
    if spread == 0:
        return "The loss is constant."
    change = slope * n
    bend = abs(rest[n // 4 : n - n // 4].mean() - (rest[: n // 4].mean() + rest[-(n // 4) :].mean()) / 2)
    if abs(change) > _LARGEST_TREND * spread or bend > _LARGEST_BEND * spread:
        verb = "falls" if change < 0 else "rises"
        share = text_of(max(abs(change), bend) / spread)
        return f"The loss is not stationary: it {verb} by {share} times its fluctuation in {n} steps."
    early, late = float(rest[: n // 2].var()), float(rest[n // 2 :].var())
    if early > _LARGEST_CHANGE * late:
        return f"The loss is not stationary: its variance falls by a factor of {text_of(early / late)} in {n} steps."
    return None


def excess_loss(trace: float, batch: float, gain: float) -> float:
    """Return the mean loss above the minimum due to the fluctuation of the weights, gain tr(A Sigma)/(4 batch).

    Args:
        trace: Trace of the covariance of the gradients of single examples, weighted by the elementwise rates lr/d.
        batch: Number of examples of a batch.
        gain: DC gain of the filter.

    Example:
        >>> excess_loss(trace=0.1 * 4.0, batch=8, gain=10.0)  # heavy ball with momentum .9, lr .1, tr(Sigma) 4
        0.125
    """
    return gain * trace / (4 * batch)


def rate_correction(section: RationalFilter, product: float) -> float:
    """Return the temperature of a direction relative to its limit for small rates.

    Args:
        section: The filter.
        product: Rate times preconditioned curvature of the direction, stable and > 0.

    Example:
        >>> round(rate_correction(RationalFilter(), 0.5), 6)  # plain gradient descent: 1/(1 - product/2)
        1.333333
    """
    return 2 * product * variance_gain(section.reduced(), product, 0.0) / section.dc_gain


def directions(eigenvalues: ArrayLike) -> float | None:
    """Return the effective number of directions (sum x)^2/sum x^2 of positive eigenvalues, or None without one.

    If the noise is proportional to the curvature, temperatures are proportional to the eigenvalues, and the largest
    eigenvalues give a lower bound of the number.

    >>> directions([2.0, 2.0, -1.0])
    2.0
    """
    x = np.asarray(eigenvalues, dtype=np.float64)
    x = x[x > 0]
    return float(x.sum() ** 2 / (x**2).sum()) if len(x) else None


@dataclass(frozen=True)
class Virial:
    """Temperatures of sampled weights.

    Attributes:
        measured: Sum of cov(w, g), plus the potential of the decay, over the weights: the measured temperatures.
        predicted: Sum of rate * Var(g)/2: the temperatures of a stationary state for small rates.
        ratio: measured/predicted. Below 1: weights that have not relaxed; 1: stationary.
        error: Standard error of the ratio, from halves of the sampled weights.
    """

    measured: float
    predicted: float
    ratio: float
    error: float


def virial(gradients: Array, weights: Array, rates: Array, decay: float = 0.0) -> Virial | None:
    """Compare the virial of sampled weights with the temperature that the noise of their gradients predicts.

    In a stationary state E[(w - E w) g] + (decay/rate) Var w = rate Var(g)/2 for each weight, for small rates.

    Args:
        gradients: Gradients, one row a step and one column a weight.
        weights: Weights before the steps.
        rates: Effective learning rate of each weight, including gain and denominator.
        decay: Fraction of the weight subtracted per step.

    Returns:
        The comparison, or None if the gradients do not vary.

    Source: Yaida, arXiv 1810.00004, for plain gradient descent.
    """
    g, w = gradients - gradients.mean(0), weights - weights.mean(0)
    found = (g * w).mean(0) + decay / np.where(rates > 0, rates, np.inf) * (w**2).mean(0)
    expected = rates * (g**2).mean(0) / 2
    total = float(expected.sum())
    if not total > 0:
        return None
    ratio = float(found.sum()) / total
    error = math.sqrt(float(((found - ratio * expected) ** 2).sum())) / total
    return Virial(float(found.sum()), total, ratio, error)
