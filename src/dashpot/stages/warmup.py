"""Warm-up of the learning rate, counted in steps or in Hessian-vector products."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dashpot.constraints import POLE, OneOf, Scalar, field
from dashpot.stages.base import Clock, Context, Observation, Signal, Slot, Stage, per_tensor


@dataclass(frozen=True)
class Warmup(Stage):
    """Multiply the learning rate by 1 - rho^n, which rises from 1 - rho to 1.

    Args:
        rho: In [0, 1): the rate reaches 63 % of its final value at about n = 1/(1 - rho). 0 disables the warm-up.
        counts: Definition of n. "steps": number of optimizer steps; "products": number of Hessian-vector products that
            updated the curvature estimate.

    The first curvature estimates are too noisy for the full learning rate.

    Source: Crowson, ESGD-M (the first version counts steps; the later version counts Hessian-vector products).

    >>> Warmup(0.99).scalars(Clock(t=100, lr=1.0))["share"].__round__(2)
    0.63
    """

    rho: Scalar = field(0.99, POLE)
    counts: str = field("steps", OneOf(("steps", "products")))
    position = 5

    @property
    def observes(self) -> bool:
        return self.counts == "products"

    @property
    def slots(self) -> tuple[Slot, ...]:
        return (per_tensor("share", "warmup"),) if self.counts == "products" else ()

    def scalars(self, clock: Clock) -> Mapping[str, Any]:
        return {"rho": self.rho} if self.counts == "products" else {"share": 1 - self.rho**clock.t}

    def observe(self, o: Observation, s: Any, c: Any, ctx: Context) -> Any:
        del o, ctx
        return s._replace(share=c.rho * s.share + (1 - c.rho))

    def apply(self, x: Signal, s: Any, c: Any, ctx: Context) -> tuple[Signal, Any]:
        del ctx
        return x._replace(rate=x.rate * (s.share if self.counts == "products" else c.share)), s
