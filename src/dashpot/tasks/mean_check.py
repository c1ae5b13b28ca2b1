"""Detection of metric functions that return a mean instead of a sum over the batch."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor

from dashpot.utils.warn import warn

ROWS = 32
"""Maximum number of examples on which a function is tested."""
_checked: WeakSet[Callable[..., Any]] = WeakSet()


def check_sum(name: str, metric: Callable[[Any, Any], Any], value: Any, output: Any, target: Any) -> None:
    """Warn if a metric has the same value for some examples and for these examples repeated twice.

    A sum over examples doubles. A function is tested once, if its value for the first batch of a phase is in (0, 1],
    like that of most means, and if the data are two tensors with the same number of rows. Other functions are not
    called again, because they may have side effects.

    >>> check_sum("accuracy", lambda output, y: (output == y).sum(), torch.tensor(1), torch.eye(2), torch.eye(2))
    """
    if not isinstance(metric, Hashable) or metric in _checked:
        return
    tensors = isinstance(output, Tensor) and isinstance(target, Tensor) and min(output.ndim, target.ndim) > 0
    if not tensors or len(output) != len(target) or len(output) < 2 or not 0 < _float(value) <= 1:
        return
    rows = [value[:ROWS].detach() for value in (output, target)]
    once, twice = (_number(metric, [torch.cat([row] * count) for row in rows]) for count in (1, 2))
    if once == 0.0:
        return
    _checked.add(metric)
    if math.isfinite(once) and math.isclose(once, twice, rel_tol=1e-6):
        warn(
            f"Metric {name!r} has the same value for a batch and for the batch repeated twice, so it is not a sum over "
            "the examples, and its reported mean is too small. Return the sum, or a pair (sum, count), or use a metric "
            "object."
        )


def _number(metric: Callable[[Any, Any], Any], rows: list[Tensor]) -> float:
    """Return the value of a metric as a float, or NaN if it is not a single number."""
    try:
        return _float(metric(*rows))
    except (RuntimeError, ValueError, TypeError, IndexError):  # the function may require whole batches
        return math.nan


def _float(value: Any) -> float:
    is_number = isinstance(value, (int, float)) or (isinstance(value, Tensor) and value.numel() == 1)
    return float(value) if is_number else math.nan
