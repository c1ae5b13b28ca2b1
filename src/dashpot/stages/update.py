"""Final weight update, shared by all methods."""

from __future__ import annotations

from torch import Tensor

from dashpot.constraints import Scalar
from dashpot.stages.base import Signal


def updated(x: Signal, factor: Scalar) -> Tensor:
    """Return the new weight w - (rate factor) v - shrink w, where `factor` is the current factor of the schedule."""
    step = (x.rate * factor) * x.v
    return x.w - step if x.shrink is None else x.w - x.shrink * x.w - step
