"""Curvature estimates from Hessian-vector products as a denominator.

A stage with `observes = True` implements `observe` in addition to `apply`. On steps that compute a Hessian-vector
product, `observe` uses the probe v and the product H v to update the slots of the stage. `apply` only reads these
slots. Steps without a product, and fused kernels, therefore cost as much as those of Adam.
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


@dataclass(frozen=True)
class Curvature(Stage):
    """Divide by a running estimate of the curvature along each coordinate, from Hessian-vector products.

    A probe v with independent entries of mean 0 and variance 1 gives, for every element,

        estimate "row-norm":  q = (H v)_i,      E[q^2] = (H^2)_ii, the squared norm of row i of H (equilibration)
        estimate "diagonal":  q = v_i (H v)_i,  E[q] = H_ii (Hutchinson's estimator)

    The values of q are accumulated. At the h-th Hessian-vector product,

        "squares":  D = beta D + (1 - beta) q^2,     d = sqrt(D/(1 - beta^h))^power + eps
        "running":  D = D + (q^2 - D)/n,             d = sqrt(D)^power + eps,   n = min(h, 1/(1 - beta))
        "maximum":  D = max(beta D, q^2),            d = sqrt(D)^power + eps
        "mean":     D = beta D + (1 - beta) q,       d = max(gamma D, eps)

    Args:
        beta: Decay factor in [0, 1), or in [0, 1] for "running" and "maximum"; applied once per Hessian-vector product,
            not per step. With 1, "running" is the mean over all products (plain ESGD).
        eps: Constant >= 0 added to the root; for "mean", the lower bound of the denominator.
        estimate: "row-norm" or "diagonal", as above.
        accumulator: "squares", "running", "maximum" or "mean", as above.
        power: Exponent in [0, 1] (AdaHessian's Hessian power): 1 gives Newton's scaling, 0 gives gradient descent. None
            is equivalent to 1 but skips the computation of the power; it is required for "mean".
        gamma: Factor >= 0 on the mean (Sophia). None is equivalent to 1 and is required unless the accumulator is
            "mean".
        spatial: If True, average q over the dimensions 2, 3, ... (the window of a convolution kernel) before squaring.

    Before its first Hessian-vector product, a parameter has an infinite denominator and is not updated. The slot
    `products` contains h, and `hess_weight` contains 1 - beta^h, computed as a running sum, so that beta may change
    between products and no cancellation occurs.

    Source: Dauphin et al., arXiv 1502.04390 (equilibration, mean over all products); Crowson, ESGD-M (moving average,
    maximum); Yao et al., arXiv 2006.00719 (AdaHessian); Liu et al., arXiv 2305.14342 (Sophia).

    >>> Curvature(beta=0.99).slots[0]
    Slot(name='hessian', key='hess_sq', shape='elementwise', initial=0.0)
    """

    beta: Scalar = field(0.999, SHARE)
    eps: Scalar = field(1e-4, ARGUMENTS["eps"])
    estimate: str = field("row-norm", OneOf(("row-norm", "diagonal")))
    accumulator: str = field("squares", OneOf(("squares", "running", "maximum", "mean")))
    power: Scalar | None = field(None, Optional(SHARE))
    gamma: Scalar | None = field(None, Optional(NONNEGATIVE))
    spatial: bool = field(False, FLAG)
    observes = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.accumulator not in ("running", "maximum") and is_number(self.beta) and self.beta == 1:
            raise ArgumentError(
                f"Curvature: beta must be {POLE} with accumulator={self.accumulator!r}, got {shown(self.beta)}."
            )
        alien = "power" if self.accumulator == "mean" else "gamma"
        if getattr(self, alien) is not None:
            raise ArgumentError(
                f"Curvature: {alien} must be None with accumulator={self.accumulator!r}, "
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
        if self.accumulator == "running":
            share = (1 / s.products).clamp_min(1 - c.beta)
            return s._replace(hessian=s.hessian + share * (q * q - s.hessian))
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
    """Average `q` over the dimensions 2, 3, ... of the parameter, and expand the result to the shape of `q`."""
    window = tuple(range(2, dims))
    return q.mean(window, keepdim=True, dtype=wide_dtype(q)).to(q.dtype).expand_as(q) if window else q
