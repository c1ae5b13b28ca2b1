"""Counterparts of optimizers of torch: dashpot's classes with equal settings and state keys."""

from __future__ import annotations

import inspect
from typing import Any

import torch

from dashpot.errors import ArgumentError
from dashpot.optimizers.base import Optimizer
from dashpot.optimizers.registry import METHODS
from dashpot.utils.scalars import read


def counterpart_class(optimizer: torch.optim.Optimizer) -> type[Optimizer] | None:
    """Return dashpot's class with the name of a class of torch.optim; None for subclasses and other libraries."""
    kind = type(optimizer)
    if kind is not getattr(torch.optim, kind.__name__, None):
        return None
    return next((row.cls for row in METHODS.values() if row.cls.__name__ == kind.__name__), None)


def counterpart(optimizer: torch.optim.Optimizer, owner: str) -> Optimizer:
    """Return an optimizer of dashpot with the groups and settings of an optimizer of torch, each with a single weight.

    Raises:
        ArgumentError: If the class has no counterpart.
    """
    cls = counterpart_class(optimizer)
    if cls is None:
        known = [row.cls.__name__ for row in METHODS.values() if hasattr(torch.optim, row.cls.__name__)]
        kind = type(optimizer)
        raise ArgumentError(
            f"{owner}: optimizer must be of dashpot or one of torch.optim's {', '.join(dict.fromkeys(known))}, "
            f"got {kind.__module__}.{kind.__qualname__}."
        )
    settings = group_settings(cls, optimizer)
    make: Any = cls
    return make([{"params": [torch.zeros(1, requires_grad=True)], **own} for own in settings])


def group_settings(cls: Any, optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    """Return the settings of `cls` in each group of an optimizer of torch, as numbers."""
    names = [*inspect.signature(cls.preset).parameters, "maximize"]
    return [{name: read(group[name]) for name in names if name in group} for group in optimizer.param_groups]


def adopted(optimizer: torch.optim.Optimizer) -> Optimizer | None:
    """Return a view of an optimizer of torch as dashpot's class, with the same parameters, settings and state tensors.

    The view never steps. None without a counterpart; a dashpot optimizer is returned unchanged.
    """
    if isinstance(optimizer, Optimizer):
        return optimizer
    cls = counterpart_class(optimizer)
    if cls is None:
        return None
    make: Any = cls
    groups = zip(optimizer.param_groups, group_settings(cls, optimizer), strict=True)
    view = make([{"params": group["params"], **own} for group, own in groups])
    view.state = optimizer.state
    return view
