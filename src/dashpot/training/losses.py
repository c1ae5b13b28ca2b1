"""Loss of a batch, with errors for invalid losses and labels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from dashpot.errors import ArgumentError
from dashpot.tasks.loss_value import mean_and_count
from dashpot.training.error_hints import ERRORS, explain_loss

IGNORE_INDEX = -100
"""Default `ignore_index` of `torch.nn.functional.cross_entropy`."""


def scalar_loss(
    function: Callable[[Any, Any], Any], output: Any, y: Any, weight: Callable[[Any, Any], Any] | None = None
) -> tuple[Tensor, Tensor | None]:
    """Return the mean loss of a batch, and the count over which it is a mean; see `mean_and_count`.

    Raises:
        ArgumentError: If the loss is neither a tensor with one element nor a pair (sum, count), or labels are out of
            range.

    >>> import torch
    >>> scalar_loss(lambda output, y: output, torch.ones(2), None)
    Traceback (most recent call last):
    dashpot.errors.ArgumentError: Learner: the loss of a batch must be a tensor with one element, got shape (2,).
    """
    try:
        value = function(output, y)
    except ERRORS as error:
        _check_labels(output, y, error)
        explain_loss(output, y, error)
        raise
    return mean_and_count(value, output, y, weight)


def _check_labels(output: Any, y: Any, error: Exception) -> None:
    """Raise `ArgumentError` if class labels are out of range; torch would raise an index error."""
    if not isinstance(error, IndexError) and "out of bounds" not in str(error):
        return
    if not isinstance(output, Tensor) or not isinstance(y, Tensor) or y.is_floating_point():
        return
    if y.ndim != output.ndim - 1 or output.ndim < 2 or output.shape[1] < 2:  # these are not class labels and scores
        return
    classes = output.shape[1]
    bad = y[((y < 0) | (y >= classes)) & (y != IGNORE_INDEX)]
    if bad.numel():
        raise ArgumentError(
            f"Learner: labels must be integers in [0, {classes - 1}] for a model with {classes} classes, got "
            f"{bad.flatten()[0].item()}."
        ) from error
