"""Clipping by the size of the weight: a gradient may be at most a share of its tensor's norm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dashpot.constraints import Interval, Scalar, field
from dashpot.stages.base import Context, Signal, Stage
from dashpot.stages.wide import wide

__all__ = ["AdaptiveClip"]

_TINY = 1e-6  # keeps the quotient finite for a gradient of zero


@dataclass(frozen=True)
class AdaptiveClip(Stage):
    """Hold the norm of each gradient to a multiple of its weight's norm, tensor by tensor.

        g <- g min(1, share max(|w|, floor)/|g|)

    Args:
        share: Positive: the largest allowed |g|/|w|.
        floor: Positive: the norm that small or fresh weights count with, so that zeros can move.

    Source: Brock et al., arXiv 2102.06171 (there unit by unit, with share 0.01 to 0.16 and floor 1e-3).
    """

    share: Scalar = field(0.01, Interval(0))
    floor: Scalar = field(1e-3, Interval(0))
    position = -1

    def apply(self, x: Signal, s: Any, c: Any, ctx: Context) -> tuple[Signal, Any]:
        allowed = c.share * ctx.norm(wide(x.w)).clamp_min(c.floor)
        factor = (allowed / ctx.norm(wide(x.g)).clamp_min(_TINY)).clamp_max(1.0)
        g = x.g * factor
        return x._replace(g=g, v=g if x.v is x.g else x.v * factor), s
