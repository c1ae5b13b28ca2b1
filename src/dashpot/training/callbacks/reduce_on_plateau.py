"""`dashpot.schedules.Plateau` driving the learning rate of an optimizer."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from dashpot.errors import ArgumentError
from dashpot.schedules import Plateau

__all__ = ["ReduceOnPlateau"]


class ReduceOnPlateau:
    """Multiplies every group's learning rate by the plateau's factor for all that was measured so far.

    >>> import torch
    >>> opt = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.5)
    >>> scheduler = ReduceOnPlateau(opt, Plateau(factor=0.1, patience=0))
    >>> scheduler.step(1.0), scheduler.step(1.0), opt.param_groups[0]["lr"]
    (None, None, 0.05)
    """

    def __init__(self, opt: Optimizer, plateau: Plateau) -> None:
        if "lr" in getattr(opt, "schedule", {}):
            raise ArgumentError("Schedule: lr has a schedule in the optimizer already; give it one of the two.")
        self.opt, self.plateau = opt, plateau
        self.base_lrs = [float(group["lr"]) for group in opt.param_groups]
        self.history: list[float] = []

    def step(self, value: float) -> None:
        """Take in what an epoch measured."""
        self.history.append(float(value))
        factor = self.plateau.factor_after(self.history)
        for group, base in zip(self.opt.param_groups, self.base_lrs, strict=False):
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(base * factor)
            else:
                group["lr"] = base * factor

    def state_dict(self) -> dict[str, Any]:
        """Plain data: what was measured, the rates to begin with, and of which plateau."""
        return {"history": list(self.history), "bases": list(self.base_lrs), "plateau": repr(self.plateau)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken; the rate in force is a matter of the groups."""
        self.history, self.base_lrs = list(state["history"]), list(state["bases"])
