"""The last line of every rule: the new weight."""

from __future__ import annotations

from torch import Tensor

from dashpot.constraints import Scalar
from dashpot.stages.base import Signal

__all__ = ["updated"]


def updated(x: Signal, factor: Scalar) -> Tensor:
    """w - (rate factor) v - shrink w, with `factor` the schedule's value."""
    step = (x.rate * factor) * x.v
    return x.w - step if x.shrink is None else x.w - x.shrink * x.w - step
