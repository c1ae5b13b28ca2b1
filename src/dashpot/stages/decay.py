"""Weight decay: coupled to the gradient, decoupled from it, or added to the parameter change."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dashpot.constraints import ARGUMENTS, Scalar, field
from dashpot.errors import ArgumentError
from dashpot.stages.base import Clock, Context, Signal, Stage
from dashpot.utils.scalars import is_number
from dashpot.utils.warn import warn


class _Decay(Stage):
    def is_noop(self) -> bool:
        # Skip the arithmetic for exactly zero: preserves -0.0 and avoids 0 * inf.
        return is_number(self.weight_decay) and self.weight_decay == 0  # pyright: ignore[reportAttributeAccessIssue]


@dataclass(frozen=True)
class CoupledDecay(_Decay):
    """L2 regularisation: g <- g + weight_decay w, before filters and moments.

    Args:
        weight_decay: Coefficient >= 0; the added term is the gradient of (weight_decay/2) |w|^2.

    Source: torch.optim.SGD, RMSprop and Adam (`weight_decay`); AutoSGM level 0.
    """

    weight_decay: Scalar = field(0.0, ARGUMENTS["weight_decay"])
    position = 0

    def apply(self, x: Signal, s: Any, c: Any, ctx: Context) -> tuple[Signal, Any]:
        del ctx
        g = x.g + c.weight_decay * x.w
        return x._replace(g=g, v=g), s


@dataclass(frozen=True)
class DecoupledDecay(_Decay):
    """Decoupled weight decay: w <- w (1 - s weight_decay), where all other stages use w before the decay.

    Args:
        weight_decay: Coefficient >= 0.
        scale: Definition of s. "lr": the effective learning rate, lr times numerator times schedule (AdamW);
            "schedule": the schedule's factor, which makes the decay independent of lr; "constant": 1.

    If s weight_decay is 1 or more, the weight overshoots zero and a warning is issued. If it is 2 or more, the weight
    diverges and `ArgumentError` is raised.

    Source: Loshchilov and Hutter, arXiv 1711.05101; torch.optim.AdamW ("lr").
    """

    weight_decay: Scalar = field(0.01, ARGUMENTS["weight_decay"])
    scale: str = field("lr", ARGUMENTS["decay_scale"])
    position = 6

    def scalars(self, clock: Clock) -> Mapping[str, Any]:
        share = _share(self.weight_decay, self.scale, clock)
        _refuse_overshoot(share * clock.lr if self.scale == "lr" else share)
        return {"share": share}

    def apply(self, x: Signal, s: Any, c: Any, ctx: Context) -> tuple[Signal, Any]:
        del ctx
        share = c.share * x.rate if self.scale == "lr" else c.share
        return x._replace(shrink=share if x.shrink is None else x.shrink + share), s


@dataclass(frozen=True)
class ChangeDecay(_Decay):
    """Decay added to the direction after filter and denominator: v <- v + factor weight_decay w.

    Args:
        weight_decay: Coefficient >= 0.
        factor: Factor >= 0 on `weight_decay`. In AutoSGM, it is the unit gain of the filter, (1 - pole)/(1 - zero).
            With pole 0.9 and zero 0, the effective decay is a tenth of `weight_decay`: 1e-2 in AutoSGM corresponds to
            1e-3 in AdamW.
        scale: Scale of the decay. "lr": the decay is scaled by the effective learning rate and included in the
            direction from which the numerators are computed (AutoSGM); "schedule" or "constant": the decay is
            subtracted from w independently of lr, scaled by the schedule's factor or by 1, respectively.

    Source: Somefun, AutoSGM (level 1).
    """

    weight_decay: Scalar = field(0.0, ARGUMENTS["weight_decay"])
    factor: Scalar = field(1.0, ARGUMENTS["lr"])
    scale: str = field("lr", ARGUMENTS["decay_scale"])
    position = 3

    def scalars(self, clock: Clock) -> Mapping[str, Any]:
        decay = self.factor * self.weight_decay
        share = _share(decay, self.scale, clock)
        if self.scale == "lr":  # the update multiplies v by rate and factor
            _refuse_overshoot(share * clock.lr)
            return {"decay": decay}
        _refuse_overshoot(share)
        return {"decay": share}

    def apply(self, x: Signal, s: Any, c: Any, ctx: Context) -> tuple[Signal, Any]:
        del ctx
        if self.scale == "lr":
            return x._replace(v=x.v + c.decay * x.w), s
        return x._replace(shrink=c.decay if x.shrink is None else x.shrink + c.decay), s


def _share(decay: Scalar, scale: str, clock: Clock) -> Scalar:
    scales = {"lr": clock.factor, "schedule": clock.window, "constant": 1.0}
    return decay * scales[scale]


def _refuse_overshoot(share: Scalar) -> None:
    if not is_number(share) or share < 1:
        return
    if share >= 2:
        raise ArgumentError(
            f"Decoupled weight decay: the fraction of the weight per step must be below 2 (unstable), got {share:g}."
        )
    warn(f"Decoupled weight decay subtracts {share:g} times the weight per step and overshoots zero.")
