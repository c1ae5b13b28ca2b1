"""Value of a loss or a metric: a mean or sum over the examples of a batch, or a pair (sum, count)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from dashpot.constraints import shown
from dashpot.errors import ArgumentError
from dashpot.utils.scalars import scalar_dtype

WeightFunction = Callable[[Any, Any], Any]


def mean_and_count(
    value: Any, output: Any, y: Any, weight: WeightFunction | None = None, owner: str = "Learner"
) -> tuple[Tensor, Tensor | None]:
    """Return the mean loss and the count over which it is a mean.

    Args:
        value: Value of a loss: a mean, a tensor with one element, or a pair (sum, count) of such tensors.
        output: Output of the model.
        y: Target.
        weight: Function from (output, y) to the count of a mean, or None for a mean over the examples.
        owner: Start of error messages.

    Returns:
        A pair (mean, count) of 0-d tensors. The count is None for a mean over the examples. For a count of 0, the mean
        is the sum.

    Raises:
        ArgumentError: If a value is not a tensor with one element.

    >>> mean_and_count((torch.tensor(6.0), torch.tensor(4)), None, None)
    (tensor(1.5000), tensor(4))
    >>> mean_and_count((torch.tensor(0.0), 0), None, None)[0]
    tensor(0.)
    """
    if isinstance(value, (tuple, list)) and len(value) == 2:
        total = wide(_loss_tensor(value[0], owner))
        count = count_tensor(value[1], total, f"{owner}: the count of a loss (sum, count)")
        return total / nonzero(count).to(total.dtype), count
    mean = _loss_tensor(value, owner)
    if weight is None:
        return mean, None
    return mean, count_tensor(weight(output, y), mean, f"{owner}: weight(output, y)")


def count_tensor(count: Any, like: Tensor, name: str) -> Tensor:
    """Return `count`, a number or a tensor with one element, as a detached 0-d tensor on the device of `like`.

    Raises:
        ArgumentError: If `count` is neither; the message starts with `name`.
    """
    if isinstance(count, (int, float)) and not isinstance(count, bool):
        return torch.tensor(count, dtype=scalar_dtype(like.device), device=like.device)
    if not isinstance(count, Tensor) or count.numel() != 1:
        got = f"shape {tuple(count.shape)}" if isinstance(count, Tensor) else type(count).__name__
        raise ArgumentError(f"{name} must be a tensor with one element, got {got}.")
    return count.detach().reshape(()).to(like.device)


def nonzero(count: Any) -> Any:
    """Return `count`, or 1 if it is 0, without a host sync.

    >>> nonzero(torch.tensor(0)), nonzero(3)
    (tensor(1), 3)
    """
    return count.masked_fill(count == 0, 1) if isinstance(count, Tensor) else count or 1


def weighted(mean: Tensor, count: Any) -> Tensor:
    """Return `mean * count`, and 0 for a count of 0, even if the mean is not finite.

    >>> weighted(torch.tensor(torch.nan), torch.tensor(0)), weighted(torch.tensor(0.5), 4)
    (tensor(0.), tensor(2.))
    """
    mean = wide(mean)
    if not isinstance(count, Tensor):
        return mean * count if count else torch.zeros_like(mean)
    return torch.where(count == 0, 0.0, mean * count.to(mean.dtype))


def wide(value: Tensor) -> Tensor:
    """Return `value` in its own dtype, or in float32 if this dtype is narrower."""
    return value.to(torch.promote_types(value.dtype, torch.float32))


def _loss_tensor(value: Any, owner: str) -> Tensor:
    if not isinstance(value, Tensor) or value.numel() != 1:
        got = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else shown(value)
        raise ArgumentError(f"{owner}: the loss of a batch must be a tensor with one element, got {got}.")
    return value.reshape(())
