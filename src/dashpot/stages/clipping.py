"""Clipping of the gradient relative to the weight, and of the direction by norm or elementwise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from dashpot.constraints import ARGUMENTS, Interval, Scalar, field
from dashpot.stages.at_zero import nonzero, root
from dashpot.stages.base import Context, Signal, Stage, per_tensor
from dashpot.stages.wide import narrow, wide
from dashpot.utils.scalars import bound

_TINY = 1e-6  # keeps the quotient finite for a zero gradient


@dataclass(frozen=True)
class AdaptiveClip(Stage):
    """Per-tensor bound on the gradient norm relative to the weight norm.

        g <- g min(1, share max(|w|, floor)/|g|)

    Args:
        share: Maximum ratio |g|/|w|, > 0.
        floor: Lower bound on |w| in this ratio, > 0, so that zero-initialized weights can be updated.

    Source: Brock et al., arXiv 2102.06171, where the norms are per unit, `share` is 0.01 to 0.16 and `floor` is 1e-3.
    """

    share: Scalar = field(0.01, Interval(0))
    floor: Scalar = field(1e-3, Interval(0))
    position = -1

    def apply(self, x: Signal, s: Any, c: Any, ctx: Context) -> tuple[Signal, Any]:
        allowed = c.share * ctx.norm(wide(x.w)).clamp_min(c.floor)
        factor = (allowed / ctx.norm(wide(x.g)).clamp_min(_TINY)).clamp_max(1.0)
        g = x.g * factor
        return x._replace(g=g, v=g if x.v is x.g else x.v * factor), s


@dataclass(frozen=True)
class HuberClip(Stage):
    """Huberized prefilter: scale the direction down if it deviates by more than `cap` standard deviations.

        mu = E_b[ |v| ],    dev = |v - mu| + eps,    sd = sqrt(E_b[dev^2]) + eps,    v <- v min(dev, cap sd)/dev

    Norms are computed over the whole tensor in float64; mu is subtracted from every element. The averages start from
    zero without bias correction, so that the first steps are small: with beta = 0.9999, the first step is scaled by
    0.04.

    Args:
        beta: In [0, 1): pole of both averages.
        cap: Clipping threshold, > 0. With 4, the probability of clipping is at most 1/16 (Chebyshev's inequality).
        eps: Constant >= 0 added to the deviation dev and to the standard deviation sd.

    Source: Somefun, AutoSGM (documented as numerator 4).
    """

    beta: Scalar = field(0.9999, ARGUMENTS["beta"])
    cap: Scalar = field(4.0, Interval(0))
    eps: Scalar = field(1e-8, ARGUMENTS["eps"])
    slots = (per_tensor("centre", "norm_avg"), per_tensor("spread", "deviation_sq"))
    position = 4

    def apply(self, x: Signal, s: Any, c: Any, ctx: Context) -> tuple[Signal, Any]:
        v = wide(x.v)
        centre = narrow(c.beta * s.centre + (1 - c.beta) * ctx.norm(v), s.centre)
        deviation = ctx.norm(v - centre) + c.eps
        spread = c.beta * s.spread + (1 - c.beta) * deviation * deviation
        limit = c.cap * (root(spread) + c.eps)
        factor = torch.where(deviation > limit, limit / nonzero(deviation), 1.0)
        return x._replace(v=x.v * factor), s._replace(centre=centre, spread=narrow(spread, s.spread))


@dataclass(frozen=True)
class ClipElements(Stage):
    """Clamp every element of the direction to [-limit, limit], which bounds the update by lr times `limit`.

    Args:
        limit: Maximum absolute value of an element, > 0.

    Source: Liu et al., arXiv 2305.14342 (Sophia).
    """

    limit: Scalar = field(1.0, Interval(0))
    position = 4

    def apply(self, x: Signal, s: Any, c: Any, ctx: Context) -> tuple[Signal, Any]:
        del ctx
        limit = bound(c.limit, x.v)
        return x._replace(v=x.v.clamp(-limit, limit)), s
