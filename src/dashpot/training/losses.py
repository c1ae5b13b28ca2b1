"""The loss of a batch, and what is wrong where there is none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from dashpot.errors import ArgumentError

__all__ = ["scalar_loss"]

LEFT_OUT = -100
"""The label that torch's cross entropy leaves out by default."""


def scalar_loss(function: Callable[[Any, Any], Any], output: Any, y: Any) -> Tensor:
    """`function(output, y)`, a 0-d tensor.

    Raises:
        ArgumentError: it is no 0-d tensor, or labels are out of range.

    >>> import torch
    >>> scalar_loss(lambda output, y: output, torch.ones(2), None)
    Traceback (most recent call last):
    dashpot.errors.ArgumentError: Learner: the loss of a batch must be a tensor with one element, got shape (2,).
    """
    try:
        loss = function(output, y)
    except (IndexError, RuntimeError) as error:
        _check_labels(output, y, error)
        raise
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        got = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else repr(loss)
        raise ArgumentError(f"Learner: the loss of a batch must be a tensor with one element, got {got}.")
    return loss.reshape(())


def _check_labels(output: Any, y: Any, error: Exception) -> None:
    """Say so where class numbers are out of range, which torch tells as an index out of bounds."""
    if not isinstance(error, IndexError) and "out of bounds" not in str(error):
        return
    if not isinstance(output, Tensor) or not isinstance(y, Tensor) or y.is_floating_point():
        return
    if y.ndim != output.ndim - 1 or output.ndim < 2 or output.shape[1] < 2:  # no class numbers beside their scores
        return
    classes = output.shape[1]
    bad = y[((y < 0) | (y >= classes)) & (y != LEFT_OUT)]
    if bad.numel():
        raise ArgumentError(
            f"Learner: labels must be integers in [0, {classes - 1}], as the model gives {classes} classes, got "
            f"{bad.flatten()[0].item()}."
        ) from error
