"""Scheduler that reduces the learning rate on a plateau."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from dashpot.errors import ArgumentError
from dashpot.schedules import Plateau


class ReduceOnPlateau:
    """Scheduler that multiplies every group's initial learning rate by the factor of a `Plateau`.

    >>> import torch
    >>> opt = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.5)
    >>> scheduler = ReduceOnPlateau(opt, Plateau(factor=0.1, patience=0))
    >>> scheduler.step(1.0), scheduler.step(1.0), opt.param_groups[0]["lr"]
    (None, None, 0.05)
    """

    def __init__(self, opt: Optimizer, plateau: Plateau) -> None:
        if "lr" in getattr(opt, "schedule", {}):
            raise ArgumentError("Schedule: lr is already scheduled by the optimizer; remove one of the schedules.")
        self.opt, self.plateau = opt, plateau
        self.base_lrs = [float(group["lr"]) for group in opt.param_groups]
        self.history: list[float] = []

    def step(self, value: float) -> None:
        """Append the metric value of an epoch and update the learning rates."""
        self.history.append(float(value))
        factor = self.plateau.factor_after(self.history)
        for group, base in zip(self.opt.param_groups, self.base_lrs, strict=False):
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(base * factor)
            else:
                group["lr"] = base * factor

    def state_dict(self) -> dict[str, Any]:
        """Return the metric values, the initial learning rates and the settings of the plateau as plain data."""
        return {"history": list(self.history), "bases": list(self.base_lrs), "plateau": repr(self.plateau)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the metric values and initial learning rates; the optimizer's state contains the current rates."""
        self.history, self.base_lrs = list(state["history"]), list(state["bases"])
