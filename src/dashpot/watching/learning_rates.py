"""Learning rates of the present step, including schedules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from dashpot.optimizers.base import Optimizer
from dashpot.schedules.resolve import lr_in_force
from dashpot.utils.scalars import is_number


def learning_rates(optimizer: torch.optim.Optimizer) -> list[Any]:
    """Return the current learning rate of each group: a number, a copy of a 0-d tensor, or None."""
    return _of_groups(optimizer, optimizer.param_groups)


def current_lr(optimizer: torch.optim.Optimizer, group: int = 0) -> float:
    """Return the current learning rate of one group; 1 for rules without a rate."""
    [rate] = _of_groups(optimizer, [optimizer.param_groups[group]])
    return 1.0 if rate is None else float(rate)


def _of_groups(optimizer: torch.optim.Optimizer, groups: Sequence[Mapping[str, Any]]) -> list[Any]:
    rates: list[Any] = [_number_or_none(group.get("lr")) for group in groups]
    if isinstance(optimizer, Optimizer) and (schedule := optimizer.schedule.get("lr")) is not None:
        done = optimizer.steps_done()
        rates = [lr * factor for factor, lr in (lr_in_force(schedule, rate, done) for rate in rates)]
    return [lr.detach().clone() if isinstance(lr, Tensor) else lr for lr in rates]


def _number_or_none(value: Any) -> Any:
    """Return a number or a tensor of one element; None for other types, which groups of any library may contain."""
    return value if is_number(value) or (isinstance(value, Tensor) and value.numel() == 1) else None
