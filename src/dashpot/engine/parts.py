"""What a step is to do with one parameter group, complete before anything is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from dashpot.engine.program import Numbers
from dashpot.engine.roster import Roster
from dashpot.recipe import Recipe

__all__ = ["Part"]


@dataclass
class Part:
    """The parameters of a group that have gradients, and the numbers of their step.

    `which[i]` tells which of `numbers` belongs to parameter i: parameters that joined later count fewer steps.
    """

    group: Mapping[str, Any]
    recipe: Recipe
    params: list[Tensor]
    grads: list[Tensor]
    states: list[dict[str, Any]]
    numbers: list[Numbers]
    which: np.ndarray
    ascends: bool
    roster: Roster

    def names(self) -> list[str]:
        """What to call each parameter in a sentence: its name, or its place in the group."""
        everything = self.group["params"]
        named = self.group.get("param_names") or [f"{i} of shape {tuple(p.shape)}" for i, p in enumerate(everything)]
        return [f"parameter {name}" for name, p in zip(named, everything, strict=True) if p.grad is not None]
