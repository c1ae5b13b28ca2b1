"""Robust clip of the direction: AutoSGM's Huberised prefilter (its numerator 4)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from dashpot.constraints import ARGUMENTS, Interval, Scalar, field
from dashpot.stages.at_zero import nonzero, root
from dashpot.stages.base import Context, Signal, Stage, per_tensor
from dashpot.stages.wide import narrow, wide

__all__ = ["HuberClip"]


@dataclass(frozen=True)
class HuberClip(Stage):
    """Scale a direction down when its distance from the mean norm exceeds `cap` standard deviations.

        mu = E_b[ |v| ],    dev = |v - mu| + eps,    sd = sqrt(E_b[dev^2]) + eps,    v <- v min(dev, cap sd)/dev

    Norms are over the whole tensor and taken in float64; mu is subtracted from every element. The averages start from
    zero and are not bias corrected, so the first steps are small: beta = 0.9999 multiplies the first by 0.04.

    Args:
        beta: In [0, 1): pole of both averages.
        cap: Positive; 4 makes a cut at most a 1/16 event by Chebyshev's inequality.
        eps: >= 0.

    Source: Somefun, AutoSGM (documented there as numerator 4).
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
