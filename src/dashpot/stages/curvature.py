"""Curvature as a denominator: what Hessian-vector products tell about each element, and how fast to trust it.

A stage with `observes` has a second method beside `apply`: `observe` takes a probe v and the product H v into the
stage's slots, on the few steps on which there is one. `apply` only reads these slots, so between products, and in
fused kernels, the step is as cheap as Adam's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dashpot.constraints import (
    ARGUMENTS,
    FLAG,
    NONNEGATIVE,
    POLE,
    SHARE,
    Interval,
    OneOf,
    Optional,
    Scalar,
    field,
    shown,
)
from dashpot.errors import ArgumentError
from dashpot.stages.at_zero import nonzero, power, root
from dashpot.stages.base import Clock, Context, Observation, Signal, Slot, Stage, elementwise, per_tensor
from dashpot.stages.denominator import divided
from dashpot.stages.wide import wide_dtype
from dashpot.utils.scalars import bound, is_number

__all__ = ["ClipElements", "Curvature", "Warmup"]


@dataclass(frozen=True)
class Curvature(Stage):
    """Divide by a running estimate of the curvature along each coordinate, learned from Hessian-vector products.

    With a probe v of independent entries of mean 0 and variance 1, a product gives for every element

        estimate "row-norm":  q = (H v)_i,      E[q^2] = (H^2)_ii, the squared norm of row i of H (equilibration)
        estimate "diagonal":  q = v_i (H v)_i,  E[q] = H_ii (Hutchinson's estimator)

    and at the h-th product the accumulator takes it in:

        "squares":  D = beta D + (1 - beta) q^2,     d = sqrt(D/(1 - beta^h))^power + eps
        "maximum":  D = max(beta D, q^2),            d = sqrt(D)^power + eps
        "mean":     D = beta D + (1 - beta) q,       d = max(gamma D, eps)

    Args:
        beta: In [0, 1), for "maximum" in [0, 1]; counted in products, not in steps. 1 never forgets.
        eps: >= 0: added to the root, or for "mean" the smallest denominator.
        estimate, accumulator: As above.
        power: In [0, 1]: 1 is Newton's scaling, 0 plain gradient descent (AdaHessian's Hessian power). None is 1,
            without the arithmetic of raising to a power; "mean" has none.
        gamma: >= 0: factor on the mean (Sophia), None for 1; only "mean" has it.
        spatial: Average q over all dimensions from the third on, the window of a convolution's kernel, before it is
            squared.

    A parameter without a product yet has an infinite denominator: it stays where it is. `products` counts h, and
    `hess_weight` is 1 - beta^h (kept as a running sum, so that beta may change and nothing cancels).

    Source: Dauphin et al., arXiv 1502.04390 (equilibration); Crowson, ESGD-M (moving averages and maximum); Yao et al.,
    arXiv 2006.00719 (AdaHessian); Liu et al., arXiv 2305.14342 (Sophia).

    >>> Curvature(beta=0.99).slots[0]
    Slot(name='hessian', key='hess_sq', shape='elementwise', initial=0.0)
    """

    beta: Scalar = field(0.999, SHARE)
    eps: Scalar = field(1e-4, ARGUMENTS["eps"])
    estimate: str = field("row-norm", OneOf(("row-norm", "diagonal")))
    accumulator: str = field("squares", OneOf(("squares", "maximum", "mean")))
    power: Scalar | None = field(None, Optional(SHARE))
    gamma: Scalar | None = field(None, Optional(NONNEGATIVE))
    spatial: bool = field(False, FLAG)
    observes = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.accumulator != "maximum" and is_number(self.beta) and self.beta == 1:
            raise ArgumentError(
                f"Curvature: beta must be {POLE} with accumulator={self.accumulator!r}, got {shown(self.beta)}."
            )
        alien = "power" if self.accumulator == "mean" else "gamma"
        if getattr(self, alien) is not None:
            raise ArgumentError(
                f"Curvature: {alien} must be None with accumulator={self.accumulator!r}, which has none, "
                f"got {shown(getattr(self, alien))}."
            )

    @property
    def slots(self) -> tuple[Slot, ...]:
        hessian = elementwise("hessian", "hess" if self.accumulator == "mean" else "hess_sq")
        weight = (per_tensor("weight", "hess_weight"),) if self.accumulator == "squares" else ()
        return (hessian, per_tensor("products"), *weight)

    def scalars(self, clock: Clock) -> Mapping[str, Any]:
        del clock
        values = {"beta": self.beta, "eps": self.eps, "gamma": 1.0 if self.gamma is None else self.gamma}
        return values if self.power is None else {**values, "power": self.power}

    def observe(self, o: Observation, s: Any, c: Any, ctx: Context) -> Any:
        del ctx
        q = o.hv if self.estimate == "row-norm" else o.v * o.hv
        if self.spatial:
            q = _over_the_window(q, o.dims)
        s = s._replace(products=s.products + 1)
        if self.accumulator == "maximum":
            return s._replace(hessian=torch.maximum(c.beta * s.hessian, q * q))
        if self.accumulator == "mean":
            return s._replace(hessian=c.beta * s.hessian + (1 - c.beta) * q)
        return s._replace(hessian=c.beta * s.hessian + (1 - c.beta) * (q * q), weight=c.beta * s.weight + (1 - c.beta))

    def apply(self, x: Signal, s: Any, c: Any, ctx: Context) -> tuple[Signal, Any]:
        del ctx
        if self.accumulator == "mean":
            d = (c.gamma * s.hessian).clamp_min(bound(c.eps, s.hessian))
        else:
            square = s.hessian / nonzero(s.weight) if self.accumulator == "squares" else s.hessian
            d = (root(square) if self.power is None else power(root(square), c.power)) + c.eps
        return divided(x, torch.where(s.products > 0, d, math.inf)), s


def _over_the_window(q: Tensor, dims: int) -> Tensor:
    """The mean over the dimensions 2, 3, ... of the parameter, spread out again over its shape."""
    window = tuple(range(2, dims))
    return q.mean(window, keepdim=True, dtype=wide_dtype(q)).to(q.dtype).expand_as(q) if window else q


@dataclass(frozen=True)
class Warmup(Stage):
    """Multiply the learning rate by 1 - rho^n, which rises from 1 - rho to 1.

    Args:
        rho: In [0, 1): 63 % of the rate is reached after about 1/(1 - rho) counts. 0 switches the warm-up off.
        counts: What n counts: "steps" of the parameter, or the "products" its curvature was learned from.

    The first estimates of curvature are too noisy to be trusted with the whole rate.

    Source: Crowson, ESGD-M (steps in its first version, products in the later one).

    >>> Warmup(0.99).scalars(Clock(t=100, lr=1.0))["share"].__round__(2)
    0.63
    """

    rho: Scalar = field(0.99, POLE)
    counts: str = field("steps", OneOf(("steps", "products")))
    position = 5

    @property
    def observes(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride] - it depends on the settings
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


@dataclass(frozen=True)
class ClipElements(Stage):
    """Cut every element of the direction to [-limit, limit]: no weight moves by more than lr limit.

    Args:
        limit: Positive.

    Source: Liu et al., arXiv 2305.14342 (Sophia).
    """

    limit: Scalar = field(1.0, Interval(0))
    position = 4

    def apply(self, x: Signal, s: Any, c: Any, ctx: Context) -> tuple[Signal, Any]:
        del ctx
        limit = bound(c.limit, x.v)
        return x._replace(v=x.v.clamp(-limit, limit)), s
