"""Decay of the learning rate with the number of steps of each parameter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dashpot.constraints import ARGUMENTS, Scalar, field
from dashpot.stages.base import Clock, Context, Signal, Stage
from dashpot.utils.scalars import is_number


@dataclass(frozen=True)
class RateDecay(Stage):
    """Divide the learning rate by 1 + (t - 1) lr_decay, where t = 1, 2, ... counts the steps of the parameter.

    Args:
        lr_decay: >= 0: the rate is halved after 1/lr_decay steps. 0 disables the decay.

    The schedule `dashpot.schedules.InverseTime` has the same form, but counts the steps of the optimizer, which differ
    for parameters that have no gradient at some steps.

    Source: torch.optim.Adagrad.

    >>> RateDecay(0.01).scalars(Clock(t=101, lr=1.0))
    {'share': 0.5}
    """

    lr_decay: Scalar = field(0.0, ARGUMENTS["lr_decay"])
    position = 5

    def is_noop(self) -> bool:
        return is_number(self.lr_decay) and self.lr_decay == 0

    def scalars(self, clock: Clock) -> Mapping[str, Any]:
        return {"share": 1 / (1 + (clock.t - 1) * self.lr_decay)}

    def apply(self, x: Signal, s: Any, c: Any, ctx: Context) -> tuple[Signal, Any]:
        del ctx
        return x._replace(rate=x.rate * c.share), s
