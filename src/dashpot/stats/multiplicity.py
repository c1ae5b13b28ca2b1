"""Correction of p-values for multiple tests."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


def holm(p: Sequence[float] | Array) -> Array:
    """Return p-values adjusted by Holm's step-down method.

    The i-th smallest of m p-values is multiplied by m - i + 1; larger p-values are at least as large after adjustment.
    The probability of any false rejection is at most alpha, for any dependence of the tests.

    Args:
        p: P-values in [0, 1], of any shape; NaN for missing values, which do not count as tests.

    Returns:
        Adjusted p-values of the same shape.

    Source: Holm, A Simple Sequentially Rejective Multiple Test Procedure, Scand. J. Statist. 6 (1979).

    >>> holm([0.01, 0.04, 0.03]).round(4).tolist()
    [0.03, 0.06, 0.06]
    """
    values = np.asarray(p, dtype=np.float64)
    flat = values.ravel()
    order = np.argsort(flat)[: int((~np.isnan(flat)).sum())]  # NaN is last
    factors = np.arange(len(order), 0, -1)
    adjusted = flat.copy()
    adjusted[order] = np.minimum(np.maximum.accumulate(flat[order] * factors), 1.0)
    return adjusted.reshape(values.shape)
