"""Expected best score after a number of tuning trials."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dashpot.constraints import OneOf, check
from dashpot.stats.times import LEVEL, Array


@dataclass(frozen=True)
class BestOf:
    """Expected best score of k of the trials.

    Attributes:
        trials: k = 1, 2, ..., n.
        mean: Expected best score of k trials drawn without replacement.
        low: Lower pointwise confidence limits; -inf if unbounded.
        high: Upper pointwise confidence limits; inf if unbounded.
        level: Confidence level.
        method: Name of the method of the limits, for reports.
    """

    trials: npt.NDArray[np.int_]
    mean: Array
    low: Array
    high: Array
    level: float = 0.95
    method: str = "order statistics"


def expected_best(scores: Any, direction: str, *, level: float = 0.95) -> BestOf | None:
    """Return the expected best score after k = 1, ..., n of n tuning trials.

    The mean over all subsets of k trials is sum over i of x_i C(i - 1, k - 1)/C(n, k), with the scores x_1, ..., x_n
    from worst to best. The trials count as independent draws from the search space.

    The limits are those of the median of the best of k, which is the quantile .5^(1/k) of the scores: two of the scores
    x_i, chosen by the binomial distribution, with a coverage of at least `level` for every distribution of scores. They
    are extended to the mean if necessary. n trials do not bound the best of many from the better side; this limit is
    infinite, for 8 trials from k = 2. A bootstrap over trials cannot replace them: it never draws a score better than
    the best trial.

    Args:
        scores: Final score of each trial; NaN or infinite for a trial without a score (diverged, failed or pruned),
            which counts as the worst score of the others.
        direction: "max" or "min".
        level: Confidence level; in (0, 1).

    Returns:
        The curve with its limits; None if no trial has a score.

    Raises:
        ArgumentError: If `direction` or `level` is out of range.

    Source: Dodge et al., arXiv 1909.03004, with the unbiased estimator of Tang et al., arXiv 2004.10747; limits of
        quantiles by David and Nagaraja, Order Statistics, 2003, 7.1.

    Example:
        >>> expected_best([0.8, 0.9, float("nan")], "max").mean.round(3).tolist()
        [0.833, 0.867, 0.9]
    """
    check("expected_best", "direction", direction, OneOf(("max", "min")))
    check("expected_best", "level", level, LEVEL)
    sign = 1.0 if direction == "max" else -1.0
    ordered = _ordered(sign * np.asarray(scores, dtype=np.float64).ravel())
    if ordered is None:
        return None
    trials = np.arange(1, ordered.size + 1)
    mean = subset_weights(ordered.size) @ ordered
    worse, better = _limits(ordered, level)
    low, high = np.sort(sign * np.array([np.minimum(worse, mean), np.maximum(better, mean)]), axis=0)
    return BestOf(trials, sign * mean, low, high, level)


def _limits(ordered: Array, level: float) -> tuple[Array, Array]:
    """Return the limits of the median best of k = 1, ..., n, as two of n increasing scores or infinite."""
    from scipy import stats

    n = ordered.size
    below = stats.binom.cdf(np.arange(-1, n + 1)[:, None], n, 0.5 ** (1 / np.arange(1, n + 1)))
    tail = (1 - level) / 2
    # Row r: probability that at most r - 1 scores are below the quantile.
    worse = (below[:-1] <= tail).sum(0) - 1
    better = (below < 1 - tail).sum(0)
    padded = np.concatenate([[-np.inf], ordered, [np.inf]])
    return padded[worse], padded[np.minimum(better, n + 1)]


def subset_weights(n: int) -> Array:
    """Return the probability that the best of k of n items has rank i, in row k - 1 and column i - 1.

    >>> subset_weights(3).round(3).tolist()
    [[0.333, 0.333, 0.333], [0.0, 0.333, 0.667], [0.0, 0.0, 1.0]]
    """
    rows = [[math.comb(i, k) / math.comb(n, k + 1) for i in range(n)] for k in range(n)]
    return np.array(rows)


def _ordered(scores: Array) -> Array | None:
    """Return the scores in increasing order, with the smallest for those that are not finite."""
    finite = scores[np.isfinite(scores)]
    return np.sort(np.where(np.isfinite(scores), scores, finite.min())) if finite.size else None
