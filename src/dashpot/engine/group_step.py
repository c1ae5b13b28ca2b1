"""What a step is to do, complete before anything is written."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from dashpot.engine.program import StepScalars, StorageFormat
from dashpot.engine.sharding import Sharding, shard_rng_stream
from dashpot.recipes.recipe import Recipe

__all__ = ["GroupStep", "Kind", "Step", "TensorStep"]


class TensorStep(NamedTuple):
    """One tensor's step: what is read and written, and the number of its row among the scalars."""

    storage: StorageFormat
    rng_stream: int
    p: Tensor
    grad: Tensor
    state: dict[str, Any]
    scalars_index: int


class Kind(NamedTuple):
    """What the kernels of a recipe depend on: its structure, and which of its stages are active."""

    structure: Any
    active: tuple[bool, ...]


@dataclass
class GroupStep:
    """A parameter group in a step: its place among the groups, and the range of its parameters in the step's lists.

    Parts with the same numbers share one list.
    """

    place: int
    group: Mapping[str, Any]
    start: int
    stop: int
    recipe: Recipe
    kind: Kind
    factor: Any
    window: Any
    ascends: bool
    scalars: list[StepScalars] = field(default_factory=list)

    def names(self) -> list[str]:
        """What to call each parameter in a sentence: its name, or its place in the group."""
        everything = self.group["params"]
        named = self.group.get("param_names") or [f"{i} of shape {tuple(p.shape)}" for i, p in enumerate(everything)]
        return [f"parameter {name}" for name, p in zip(named, everything, strict=True) if p.grad is not None]


@dataclass
class Step:
    """The parameters with gradients, of all groups in order, and what is known of each.

    `params` and `grads` are what is in this process: `owners` and their gradients, or their local pieces where those
    are DTensors. `ordinals` number the parameters among all of the optimizer. `which[i]` tells which of its part's
    numbers belong to parameter i: parameters that joined later count fewer steps.
    """

    parts: list[GroupStep]
    owners: list[Tensor]
    params: list[Tensor]
    grads: list[Tensor]
    ordinals: Sequence[int]
    states: list[dict[str, Any]]
    storage: Callable[[torch.dtype], StorageFormat]
    sharding: Sharding
    which: np.ndarray
    copies: list[Tensor] = field(default_factory=list)
    """Gradients as kernels take them, for as long as the step lasts."""
    written: dict[int, list[Tensor]] = field(default_factory=dict)
    """What kernels write, by the identity of their tables."""
    _part_of: list[GroupStep] = field(default_factory=list)

    def part_of(self) -> list[GroupStep]:
        """The part of each parameter."""
        if not self._part_of:
            self._part_of += [part for part in self.parts for _ in range(part.start, part.stop)]
        return self._part_of

    def work(self, i: int) -> TensorStep:
        """The step of parameter `i` alone."""
        p = self.params[i]
        ordinal = shard_rng_stream(self.ordinals[i], self.sharding.spec(i))
        return TensorStep(self.storage(p.dtype), ordinal, p, self.grads[i], self.states[i], int(self.which[i]))
