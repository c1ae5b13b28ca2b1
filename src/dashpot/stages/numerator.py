"""Learning-rate numerators: the three estimators of AutoSGM, each one scalar per parameter tensor.

E_b[x] denotes the average b E + (1 - b) x and A_b[x] = b A + x the sum with gain 1/(1 - b), both starting from zero
without bias correction. The mean over the tensor is smoothed: q_t = 0.1 q_{t-1} + 0.9 mean_t with q_0 = 0.

Source: Somefun, AutoSGM (arXiv and repository); the formulas were re-derived.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dashpot.constraints import ARGUMENTS, Interval, Scalar, field
from dashpot.stages.at_zero import over
from dashpot.stages.base import Clock, Context, Signal, Stage, elementwise, per_tensor
from dashpot.utils.scalars import bound

_SMOOTHING = Interval(0, 1, "left")


def _layer_rate(a: Tensor, rate: Tensor, smoothing: Scalar, ctx: Context) -> Tensor:
    return smoothing * rate + (1 - smoothing) * ctx.mean(a)


@dataclass(frozen=True)
class Parcor(Stage):
    """Partial correlation of weight and direction, bounded by a trust region.

        C = 1 + E_b[w^2],        a = min( |A_b[lr w v]|, lr C ),        rate = q(mean a)

    Args:
        beta: In [0, 1): pole of both averages, close to 1. Since A_b has gain 1/(1 - beta), most elements reach the
            bound lr C within a few steps; the rate is then lr (1 + mean E[w^2]) > lr.
        smoothing: In [0, 1): weight of the previous mean.
    """

    beta: Scalar = field(0.9999, ARGUMENTS["beta"])
    smoothing: Scalar = field(0.1, _SMOOTHING)
    slots = (elementwise("power", "weight_power"), elementwise("correlation"), per_tensor("rate"))
    position = 5

    def scalars(self, clock: Clock) -> Mapping[str, Any]:
        return {"beta": self.beta, "smoothing": self.smoothing, "lr": clock.lr}

    def apply(self, x: Signal, s: Any, c: Any, ctx: Context) -> tuple[Signal, Any]:
        power = c.beta * s.power + (1 - c.beta) * (x.w * x.w)
        correlation = c.beta * s.correlation + c.lr * (x.w * x.v)
        a = torch.minimum(correlation.abs(), c.lr * (1 + power))
        rate = _layer_rate(a, s.rate, c.smoothing, ctx)
        return x._replace(rate=rate), s._replace(power=power, correlation=correlation, rate=rate)


@dataclass(frozen=True)
class HuberParcor(Stage):
    """`Parcor` with the product p = w v clipped at `cap` times its mean magnitude and divided by C.

        M = E_m[|p|],        p' = sign(p) min(|p|, cap M),        C = 1 + E_b[w^2]
        a = min( |A_b[lr p'/C]|, lr C ),        rate = q(mean a)

    Args:
        beta: In [0, 1): pole of the correlation and of E[w^2].
        beta_size: In [0, 1): pole m of the mean magnitude M. At first, M is biased towards zero, so that p is clipped
            in the first steps.
        cap: Clipping threshold as a multiple of M, > 0. With 4, the probability of clipping is at most 1/4 (Markov's
            inequality).
        smoothing: In [0, 1): weight of the previous mean.
    """

    beta: Scalar = field(0.9999, ARGUMENTS["beta"])
    beta_size: Scalar = field(0.999, ARGUMENTS["beta"])
    cap: Scalar = field(4.0, Interval(0))
    smoothing: Scalar = field(0.1, _SMOOTHING)
    slots = (
        elementwise("power", "weight_power"),
        elementwise("size", "product_size"),
        elementwise("correlation"),
        per_tensor("rate"),
    )
    position = 5

    def scalars(self, clock: Clock) -> Mapping[str, Any]:
        return {**super().scalars(clock), "lr": clock.lr}

    def apply(self, x: Signal, s: Any, c: Any, ctx: Context) -> tuple[Signal, Any]:
        product = x.w * x.v
        power = c.beta * s.power + (1 - c.beta) * (x.w * x.w)
        size = c.beta_size * s.size + (1 - c.beta_size) * product.abs()
        limit = c.cap * size
        cut = torch.maximum(torch.minimum(product, limit), -limit)
        trust = 1 + power
        correlation = c.beta * s.correlation + c.lr * cut / trust
        a = torch.minimum(correlation.abs(), c.lr * trust)
        rate = _layer_rate(a, s.rate, c.smoothing, ctx)
        return x._replace(rate=rate), s._replace(power=power, size=size, correlation=correlation, rate=rate)


@dataclass(frozen=True)
class MomentRate(Stage):
    """Second moment of the normalized gradient u = g/d, bounded by lr: a warm-up over about 1/(1 - beta) steps.

        a = min( E_b[lr u^2], lr ),        rate = q(mean a)

    Args:
        beta: In [0, 1): pole of the average.
        smoothing: In [0, 1): weight of the previous mean.
    """

    beta: Scalar = field(0.9999, ARGUMENTS["beta"])
    smoothing: Scalar = field(0.1, _SMOOTHING)
    slots = (elementwise("moment", "rate_moment"), per_tensor("rate"))
    position = 5

    def scalars(self, clock: Clock) -> Mapping[str, Any]:
        return {"beta": self.beta, "smoothing": self.smoothing, "lr": clock.lr}

    def apply(self, x: Signal, s: Any, c: Any, ctx: Context) -> tuple[Signal, Any]:
        u = over(x.g, x.d)
        moment = c.beta * s.moment + (1 - c.beta) * c.lr * (u * u)
        a = torch.clamp(moment, max=bound(c.lr, moment))
        rate = _layer_rate(a, s.rate, c.smoothing, ctx)
        return x._replace(rate=rate), s._replace(moment=moment, rate=rate)
