"""Losses of parts of a batch at the same weights, without side effects on the training."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

from dashpot.curvature.local_ranks import side_evaluation
from dashpot.engine.dtensor import has_dtensor
from dashpot.watching.probe import NO_LOSS, MeasurementError

if TYPE_CHECKING:
    from dashpot.watching.probe import Moment
    from dashpot.watching.watcher import Watcher


def difference_of_parts(watcher: Watcher, moment: Moment) -> float | None:
    """Estimate the variance of the loss of one example, from the losses of a batch and of its first half.

    With the mean losses L of all n examples and L_a of the first m, the other n - m have the mean L_b, and
    (L_a - L_b)^2 m (n - m)/n is an unbiased estimate of the variance. Random states and buffers are restored. Dropout
    and batch normalization, which differ between the passes, add to the estimate.

    Returns:
        The estimate, or None without a loss, its parts or their number, with sharded parameters, or if a loss is not
        finite.
    """
    examples = moment.examples
    if moment.loss is None or moment.sliced is None or examples is None or examples < 2:
        return None
    if has_dtensor(list(watcher.names)):  # a forward pass without a backward pass leaves parameters unsharded
        return None
    first, total = examples // 2, float(moment.loss)
    part = _loss_of(watcher, moment, first)
    other = (examples * total - first * part) / (examples - first)
    found = (part - other) ** 2 * first * (examples - first) / examples
    return found if math.isfinite(found) else None


def _loss_of(watcher: Watcher, moment: Moment, last: int) -> float:
    assert moment.sliced is not None
    with torch.no_grad(), side_evaluation(list(watcher.names)):
        loss: Any = moment.sliced(0, last)
        if not isinstance(loss, torch.Tensor) or loss.numel() != 1:
            raise MeasurementError(NO_LOSS)
        return float(loss)
