"""Test of the assumption behind a pooled variance: equal variances of all pairwise differences."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

_DRAWS = 9999


def sphericity_p(scores: Array) -> Array:
    """Return the p-value of sphericity: equal variances of the differences of all pairs of methods.

    With S the covariance of the scores, centered over methods and seeds, the statistic is tr(S^2)/tr(S)^2. Its null
    distribution is simulated with 9999 fixed Gaussian draws.

    Args:
        scores: Scores of k >= 3 methods (second last axis) and n >= 3 seeds (last axis), without NaN.

    Returns:
        P-values, without the last two axes. Two methods or two seeds allow no test; the p-value is 1 for two methods,
        and 0 for two seeds.

    Source: John, Some optimal multivariate tests, Biometrika 58 (1971).

    >>> rng = np.random.default_rng(0)
    >>> noise = rng.standard_normal((4, 8))
    >>> bool(sphericity_p(noise) > 0.1), bool(sphericity_p(noise * [[1], [1], [1], [10]]) < 0.001)
    (True, True)
    """
    methods, seeds = scores.shape[-2:]
    if methods == 2 or seeds == 2:
        return np.full(scores.shape[:-2], float(methods == 2))
    null = _null_statistics(methods, seeds)
    return (1 + len(null) - np.searchsorted(null, _statistic(scores))) / (1 + len(null))


def _statistic(scores: Array) -> Array:
    residuals = scores - scores.mean(-1, keepdims=True)
    residuals = residuals - residuals.mean(-2, keepdims=True)
    turned = residuals.swapaxes(-1, -2)
    methods, seeds = scores.shape[-2:]
    products = residuals @ turned if methods <= seeds else turned @ residuals  # equal traces, also of the squares
    trace = np.trace(products, axis1=-2, axis2=-1)
    square = (products**2).sum((-1, -2))
    return np.divide(square, trace**2, out=np.ones_like(square), where=trace > 0)


@lru_cache(maxsize=64)
def _null_statistics(methods: int, seeds: int) -> Array:
    rng = np.random.default_rng((methods, seeds))
    return np.sort(_statistic(rng.standard_normal((_DRAWS, methods, seeds))))
