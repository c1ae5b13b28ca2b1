"""Power of a comparison: the probability of a verdict, and the number of seeds for it."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import cast

import numpy as np
import numpy.typing as npt
from scipy import optimize, stats
from scipy.special import ndtr

from dashpot.constraints import Interval as Range
from dashpot.constraints import check
from dashpot.stats.block_model import Residual, pair_level
from dashpot.stats.differences import LEVEL, RESAMPLED
from dashpot.stats.pooling import SPHERICITY_LEVEL, Pool, pair_half_width

Array = npt.NDArray[np.float64]

_POINTS = 200
_LARGE = Range(-np.inf, np.inf)
_POSITIVE = Range(0, np.inf)
_SEEDS = Range(2, np.inf, "left", integer=True)
_METHODS = Range(2, np.inf, "left", integer=True)


def power(difference: float, sd: float, seeds: int, methods: int = 2, level: float = 0.95) -> float:
    """Return the probability that a comparison separates two methods.

    The probability that the simultaneous interval of `all_pairs` excludes 0, for Gaussian paired differences with
    equal variances: for two methods that of the noncentral t distribution, for more methods a numerical integral over
    the variances. From 20 seeds, the intervals are Student's, extended by the expected shift of the BCa
    limits.

    Args:
        difference: Difference of the mean scores of the two methods.
        sd: Standard deviation of their paired differences; positive. For independent noise of both methods, sqrt(2)
            times the standard deviation of a method.
        seeds: Number of seeds; at least 2.
        methods: Number of methods in the comparison; at least 2.
        level: Simultaneous confidence level in (0, 1).

    Returns:
        Power in [0, 1].

    Raises:
        ArgumentError: If an argument is out of range.

    Source: Student's noncentral t: Johnson and Welch, Biometrika 31 (1940).

    >>> round(power(1.0, 1.0, seeds=10), 3), round(power(1.0, 1.0, seeds=10, methods=6), 3)
    (0.803, 0.518)
    """
    _check("power", difference, sd, seeds, methods, level)
    shift = abs(difference) / sd * np.sqrt(seeds)
    return _expected(lambda half: ndtr(shift - half) + ndtr(-half - shift), seeds, methods, level)


def equivalence_power(
    margin: float, sd: float, seeds: int, methods: int = 2, level: float = 0.95, difference: float = 0.0
) -> float:
    """Return the probability that the interval of two methods is within the margin.

    Args:
        margin: Largest irrelevant difference; positive.
        sd: Standard deviation of the paired differences; positive.
        seeds: Number of seeds; at least 2.
        methods: Number of methods in the comparison; at least 2.
        level: Simultaneous confidence level in (0, 1).
        difference: True difference of the mean scores.

    Returns:
        Power in [0, 1].

    Raises:
        ArgumentError: If an argument is out of range.

    >>> round(equivalence_power(1.0, 1.0, seeds=10), 3), equivalence_power(1.0, 1.0, seeds=3) < 0.1
    (0.614, True)
    """
    _check("equivalence_power", difference, sd, seeds, methods, level)
    check("equivalence_power", "margin", margin, _POSITIVE)
    scale = np.sqrt(seeds) / sd

    def within(half: Array) -> Array:
        room = np.maximum(margin * scale - half, 0)
        return ndtr(room - difference * scale) - ndtr(-room - difference * scale)

    return _expected(within, seeds, methods, level)


def half_width(sd: float, seeds: int, methods: int = 2, level: float = 0.95) -> float:
    """Return the mean half-width of the simultaneous interval of a difference.

    Args:
        sd: Standard deviation of the paired differences; positive.
        seeds: Number of seeds; at least 2.
        methods: Number of methods in the comparison; at least 2.
        level: Simultaneous confidence level in (0, 1).

    Returns:
        Half-width in units of the score.

    Raises:
        ArgumentError: If an argument is out of range.

    >>> round(half_width(1.0, seeds=10), 2), round(half_width(1.0, seeds=5, methods=6), 2)
    (0.7, 1.73)
    """
    _check("half_width", 0.0, sd, seeds, methods, level)
    return float(_expected(lambda half: half, seeds, methods, level) * sd / np.sqrt(seeds))


def detectable_difference(sd: float, seeds: int, methods: int = 2, power: float = 0.8, level: float = 0.95) -> float:
    """Return the difference that a comparison finds with the given power.

    Args:
        sd: Standard deviation of the paired differences; positive.
        seeds: Number of seeds; at least 2.
        methods: Number of methods in the comparison; at least 2.
        power: Required power in (1 - level, 1).
        level: Simultaneous confidence level in (0, 1).

    Returns:
        Difference of the mean scores, in units of the score.

    Raises:
        ArgumentError: If an argument is out of range.

    >>> round(detectable_difference(1.0, seeds=10), 3), round(detectable_difference(1.0, seeds=3), 2)
    (0.996, 3.26)
    """
    _check("detectable_difference", 0.0, sd, seeds, methods, level)
    check("detectable_difference", "power", power, Range(1 - level, 1))
    return sd * _least_effect(power, seeds, methods, level)


def seeds_needed(
    difference: float, sd: float, methods: int = 2, power: float = 0.8, level: float = 0.95, most: int = 1000
) -> int | None:
    """Return the smallest number of seeds at which a comparison separates two methods with the given power.

    Args:
        difference: Difference of the mean scores of the two methods.
        sd: Standard deviation of their paired differences; positive.
        methods: Number of methods in the comparison; at least 2.
        power: Required power in (0, 1).
        level: Simultaneous confidence level in (0, 1).
        most: Largest number of seeds to consider; at least 2.

    Returns:
        Number of seeds; None if it is larger than `most`.

    Raises:
        ArgumentError: If an argument is out of range.

    >>> seeds_needed(1.0, 1.0), seeds_needed(1.0, 1.0, methods=6), seeds_needed(0.0, 1.0)
    (10, 16, None)
    """
    _check("seeds_needed", difference, sd, 2, methods, level)
    check("seeds_needed", "power", power, Range(0, 1))
    check("seeds_needed", "most", most, _SEEDS)
    if difference == 0:
        return None
    effect = abs(difference) / sd
    return _first(lambda n: effect >= _least_effect(power, n, methods, level), most)


def seeds_for_equivalence(
    margin: float,
    sd: float,
    methods: int = 2,
    power: float = 0.8,
    level: float = 0.95,
    difference: float = 0.0,
    most: int = 1000,
) -> int | None:
    """Return the smallest number of seeds at which the interval is within the margin with the given power.

    Arguments as those of `equivalence_power` and `seeds_needed`.

    Raises:
        ArgumentError: If an argument is out of range.

    >>> seeds_for_equivalence(1.0, 1.0), seeds_for_equivalence(1.0, 1.0, difference=2.0)
    (13, None)
    """
    _check("seeds_for_equivalence", difference, sd, 2, methods, level)
    check("seeds_for_equivalence", "margin", margin, _POSITIVE)
    if abs(difference) >= margin:
        return None
    return _first(lambda n: equivalence_power(margin, sd, n, methods, level, difference) >= power, most)


@lru_cache(maxsize=4096)
def _least_effect(goal: float, seeds: int, methods: int, level: float) -> float:
    """Return the difference in units of the standard deviation that a comparison finds with the power `goal`."""
    if power(0.0, 1.0, seeds, methods, level) >= goal:
        return 0.0
    high = 1.0
    while power(high, 1.0, seeds, methods, level) < goal:
        high *= 2
    root = optimize.brentq(lambda effect: power(effect, 1.0, seeds, methods, level) - goal, 0, high, xtol=1e-6)
    return cast(float, root)


def _first(is_enough: Callable[[int], bool], most: int) -> int | None:
    """Return the smallest sufficient number of seeds; the power increases except from 19 to 20 seeds."""
    for low, high in ((2, min(RESAMPLED - 1, most)), (RESAMPLED, most)):
        if low <= high and is_enough(high):
            while low < high:
                middle = (low + high) // 2
                low, high = (low, middle) if is_enough(middle) else (middle + 1, high)
            return low
    return None


def _check(owner: str, difference: float, sd: float, seeds: int, methods: int, level: float) -> None:
    check(owner, "difference", difference, _LARGE)
    check(owner, "sd", sd, _POSITIVE)
    check(owner, "seeds", seeds, _SEEDS)
    check(owner, "methods", methods, _METHODS)
    check(owner, "level", level, LEVEL)


def _expected(function: Callable[[Array], Array], seeds: int, methods: int, level: float) -> float:
    """Return the expectation of a function of the half-width in units of sd/sqrt(seeds)."""
    return float(sum(share * function(half).mean() for share, half in _halves(seeds, methods, level)))


@lru_cache(maxsize=512)
def _halves(seeds: int, methods: int, level: float) -> tuple[tuple[float, Array], ...]:
    """Return the distribution of the half-width for sd = sqrt(seeds) = 1 as equally probable values.

    The sum of squares of a pair is one of methods - 1 independent parts of the residual sum of squares. The second
    array contains the half-widths after the test of sphericity has failed, with the probability of that.
    """
    own = _chi_square(seeds - 1)
    if seeds >= RESAMPLED:
        return ((1.0, _resampled_halves(own, seeds, pair_level(level, methods))),)

    def halves(variance: Array, pooled: Pool | None) -> Array:
        return pair_half_width(variance, seeds, pooled, level, methods) * np.sqrt(seeds)

    if methods == 2 or seeds == 2:
        return ((1.0, halves(own / (seeds - 1), None)),)
    degrees = (methods - 1) * (seeds - 1)
    total = own[:, None] + _chi_square(degrees - seeds + 1)
    residual = Residual(total / degrees / 2, degrees)
    accepted, rejected = (
        _thinned(halves(own[:, None] / (seeds - 1), Pool(tuple(range(methods)), residual, is_spherical)))
        for is_spherical in (True, False)
    )
    return (1 - SPHERICITY_LEVEL, accepted), (SPHERICITY_LEVEL, rejected)


def _resampled_halves(own: Array, seeds: int, level: float) -> Array:
    """Return half-widths of Student's intervals, extended to BCa limits for the skewness of Gaussian samples.

    To first order in a = skewness/(6 sqrt(n)), both limits of BCa are shifted by a (1 + 2 z^2) standard errors.
    """
    t, z = stats.t.isf((1 - level) / 2, seeds - 1), stats.norm.isf((1 - level) / 2)
    skewness = np.sqrt(6 * (seeds - 2) / ((seeds + 1) * (seeds + 3)))
    a = skewness / (6 * np.sqrt(seeds)) * stats.norm.ppf((np.arange(_POINTS) + 0.5) / _POINTS)
    return _thinned(np.sqrt(own / (seeds - 1))[:, None] * t / z * (z + np.maximum(a * (1 + 2 * z**2), 0)))


def _thinned(halves: Array) -> Array:
    """Return equally probable values as fewer ones: means of consecutive values in sorted order."""
    return np.sort(halves, axis=None).reshape(_POINTS, -1).mean(1)


def _chi_square(degrees: int) -> Array:
    return stats.chi2.ppf((np.arange(_POINTS) + 0.5) / _POINTS, degrees)
