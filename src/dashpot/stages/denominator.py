"""Denominators: second moments of the gradient, about zero or about the mean, and the placement of eps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from dashpot.constraints import ARGUMENTS, NONNEGATIVE, POLE, SHARE, OneOf, Scalar, field, shown
from dashpot.errors import ArgumentError
from dashpot.stages.at_zero import over, root
from dashpot.stages.averages import AVERAGES, SUM, correction, weights
from dashpot.stages.base import Clock, Context, Signal, Slot, Stage, elementwise
from dashpot.utils.scalars import is_number, where

StateValue: TypeAlias = float
"""Annotation of numbers that only initialize state. Unlike `float`, it does not declare a setting that kernels read."""

_TINY = 1e-30  # both this number and its square root are normal float32 numbers


def divided(x: Signal, d: Tensor, eps: Scalar = 0.0) -> Signal:
    """Divide the direction by `d`, and multiply the signal's product of denominators by `d`.

    Every element of `d` must be at least `eps` or the square root of `eps`. The case 0/0 is handled only if `eps` is
    tiny, since it cannot occur otherwise.
    """
    v = x.v / d if is_number(eps) and eps > _TINY else over(x.v, d)
    return x._replace(d=d if is_number(x.d) and x.d == 1 else x.d * d, v=v)


def _root(square: Tensor, eps: Scalar, inside: bool) -> Tensor:
    return root(square + eps) if inside else root(square) + eps


@dataclass(frozen=True)
class SecondMoment(Stage):
    """Root-mean-square normalization of the gradient: RMSProp, Adam, AdaGrad.

        s_t = beta s_{t-1} + (1 - beta) g_t^2,        d_t = sqrt(s_t) + eps

    Args:
        beta: In [0, 1): the average covers about 1/(1 - beta) steps. For `average="sum"`, in [0, 1].
        eps: Constant >= 0 in the denominator.
        eps_mode: Placement of eps. "outside": added to the root (torch); "inside": added to the mean square, which
            corresponds to "outside" with sqrt(eps); "gradient": added to g before squaring and again to the root
            (AutoSGM).
        average: Initial behaviour of the average: "debiased" (Adam), "plain" (torch's RMSprop), "first" (initialized
            with g_1^2), "running" (arithmetic mean until t = 1/(1 - beta)). "sum": s_t = beta s_{t-1} + g_t^2, which
            for beta = 1 is the sum over all steps (AdaGrad).
        nu: Weight of the average in the mean square, in [0, 1]; the current g^2 has the weight 1 - nu (QHAdam).
        scale: Factor on the mean square; use 1, except to reproduce AutoSGM's quirk `eta_in_second_moment`.
        slot: State key of the average.
        maximum: If True, use the maximum max(s_1, ..., s_t) instead of s_t, with the same bias correction (AMSGrad).
            The state key of the maximum is `max_` followed by `slot`.
        initial: Initial value of s, >= 0; 0 unless `average` is "plain" or "sum". It belongs to the state, and changes
            have no effect on existing state.

    With eps = 0, elements whose gradients were all zero are not updated, whereas torch returns NaN.

    Source: Kingma and Ba, arXiv 1412.6980; Reddi et al., arXiv 1904.09237 (AMSGrad); Duchi et al., JMLR 12 (2011)
    (AdaGrad); torch.optim.Adam, RMSprop and Adagrad.
    """

    beta: Scalar = field(0.999, SHARE)
    eps: Scalar = field(1e-8, ARGUMENTS["eps"])
    eps_mode: str = field("outside", OneOf(("outside", "inside", "gradient")))
    average: str = field("debiased", OneOf((*AVERAGES, SUM)))
    nu: Scalar = field(1.0, ARGUMENTS["nu"])
    scale: Scalar = field(1.0, ARGUMENTS["lr"])
    slot: str = "exp_avg_sq"
    maximum: bool = field(False, ARGUMENTS["amsgrad"])
    initial: StateValue = field(0.0, NONNEGATIVE)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.average != SUM and is_number(self.beta) and self.beta == 1:
            raise ArgumentError(
                f"SecondMoment: beta must be {POLE} with average={self.average!r}, got {shown(self.beta)}."
            )
        if self.average not in ("plain", SUM) and self.initial != 0:
            raise ArgumentError(
                f"SecondMoment: initial must be 0 with average={self.average!r}, got {shown(self.initial)}."
            )

    @property
    def slots(self) -> tuple[Slot, ...]:
        square = elementwise("square", self.slot, self.initial)
        return (square, elementwise("largest", f"max_{self.slot}")) if self.maximum else (square,)

    def to_dict(self) -> dict[str, Any]:
        data = super().to_dict()
        if data["initial"] == 0:  # earlier versions do not have this setting
            del data["initial"]
        return data

    def scalars(self, clock: Clock) -> Mapping[str, Any]:
        w = weights(self.average, self.beta, clock.t)
        if self.maximum:
            hold = self.scale * self.nu * correction(self.average, self.beta, clock.t)
            return {"keep": w.keep, "add": w.add, "hold": hold, "fresh": self.scale * (1 - self.nu), "eps": self.eps}
        hold = self.scale * self.nu * w.hold
        direct = self.scale * (self.nu * w.direct + (1 - self.nu))
        return {"keep": w.keep, "add": w.add, "hold": hold, "direct": direct, "eps": self.eps}

    def apply(self, x: Signal, s: Any, c: Any, ctx: Context) -> tuple[Signal, Any]:
        del ctx
        g = x.g + c.eps if self.eps_mode == "gradient" else x.g
        new = g * g
        if self.maximum:
            square = c.keep * s.square + c.add * new
            largest = torch.maximum(s.largest, square)
            mean = c.hold * largest + (c.fresh * g) * g  # 0 for fresh = 0 even if g^2 overflows
            d = _root(mean, c.eps, self.eps_mode == "inside")
            return divided(x, d, c.eps), s._replace(square=square, largest=largest)
        d = _root(c.hold * s.square + c.direct * new, c.eps, self.eps_mode == "inside")
        return divided(x, d, c.eps), s._replace(square=c.keep * s.square + c.add * new)


@dataclass(frozen=True)
class CenteredMoment(Stage):
    """Normalization by the standard deviation of the gradient: centred RMSprop, centred Adam.

        var_t = max(E[g^2] - E[g]^2, 0),        d_t = sqrt(var_t) + eps

    Args:
        beta, eps, eps_mode, average: As in `SecondMoment`; `eps_mode` must be "outside" or "inside".
        mean: Estimate of E[g]. "average": an average with pole `beta`, stored in the slot `grad_avg`; "direction": the
            incoming direction, which needs no extra state. After a `Filter` with zero 0, the incoming direction is the
            debiased first moment.
        power: "std": divide by the standard deviation; "variance": divide by the variance + eps, the scaling obtained
            from a noise analysis of stochastic gradients.
        uncentered_steps: Step from which the mean is subtracted. Earlier steps (t < uncentered_steps) ignore the mean,
            since E[g^2] - E[g]^2 is close to zero at first, which would make the update huge. With 0, the mean is
            always subtracted, as in torch's centred RMSprop.

    Source: torch.optim.RMSprop(centered=True); the TTIC 31230 lecture notes.
    """

    beta: Scalar = field(0.999, ARGUMENTS["beta"])
    eps: Scalar = field(1e-8, ARGUMENTS["eps"])
    eps_mode: str = field("outside", OneOf(("outside", "inside")))
    average: str = field("debiased", OneOf(AVERAGES))
    mean: str = field("average", ARGUMENTS["mean"])
    power: str = field("std", OneOf(("std", "variance")))
    uncentered_steps: int = field(10, ARGUMENTS["uncentered_steps"])
    slot: str = "exp_avg_sq"

    @property
    def slots(self) -> tuple[Slot, ...]:
        square = elementwise("square", self.slot)
        return (square, elementwise("mean", "grad_avg")) if self.mean == "average" else (square,)

    def scalars(self, clock: Clock) -> Mapping[str, Any]:
        centre = where(clock.t < self.uncentered_steps, 0.0, 1.0)
        return {**weights(self.average, self.beta, clock.t)._asdict(), "eps": self.eps, "centre": centre}

    def apply(self, x: Signal, s: Any, c: Any, ctx: Context) -> tuple[Signal, Any]:
        del ctx
        new = x.g * x.g
        mean = x.v
        if self.mean == "average":
            mean = c.hold * s.mean + c.direct * x.g
            s = s._replace(mean=c.keep * s.mean + c.add * x.g)
        variance = (c.hold * s.square + c.direct * new - c.centre * (mean * mean)).clamp_min(0)
        s = s._replace(square=c.keep * s.square + c.add * new)
        d = variance + c.eps if self.power == "variance" else _root(variance, c.eps, self.eps_mode == "inside")
        return divided(x, d, c.eps), s
