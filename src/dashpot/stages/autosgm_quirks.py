"""Two undocumented behaviours of the original AutoSGM code; disabled unless requested by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from dashpot.constraints import ARGUMENTS, Scalar, field
from dashpot.stages.base import Clock, Context, Signal, Stage
from dashpot.utils.scalars import where


@dataclass(frozen=True)
class NudgeSmallWeights(Stage):
    """Add eps to weights with |w| < eps at the first step (quirk `eps_nudge_small_weights`)."""

    eps: Scalar = field(1e-8, ARGUMENTS["eps"])

    def scalars(self, clock: Clock) -> Mapping[str, Any]:
        return {"eps": where(clock.t > 1, 0.0, self.eps)}

    def apply(self, x: Signal, s: Any, c: Any, ctx: Context) -> tuple[Signal, Any]:
        del ctx
        return x._replace(w=torch.where(x.w.abs() < c.eps, x.w + c.eps, x.w)), s


@dataclass(frozen=True)
class Negate(Stage):
    """Negate the whole direction, including weight decay (quirk `maximize_negates_decay`)."""

    def apply(self, x: Signal, s: Any, c: Any, ctx: Context) -> tuple[Signal, Any]:
        del c, ctx
        return x._replace(v=-x.v), s
