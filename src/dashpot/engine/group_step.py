"""The plan of one optimizer step, complete before any tensor is written."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dashpot.engine.program import StepScalars, StorageFormat
from dashpot.engine.sharding import Sharding, shard_rng_stream
from dashpot.recipes.recipe import Recipe

__all__ = ["GroupPlan", "GroupStep", "Step", "TensorStep"]


class TensorStep(NamedTuple):
    """The step of one tensor.

    Attributes:
        storage: The storage format of the weight and its state.
        rng_stream: Random stream of the tensor, for stochastic rounding.
        p, grad, state: Tensors read and written.
        scalars_index: Index into the scalars of the group.
    """

    storage: StorageFormat
    rng_stream: int
    p: Tensor
    grad: Tensor
    state: dict[str, Any]
    scalars_index: int


class GroupPlan(NamedTuple):
    """The resolved settings of a parameter group for one step.

    Attributes:
        recipe: The recipe for the current settings.
        factor, window: The fields of `Clock`.
        maximize: Whether the step ascends.
        structure: The settings that kernels are specialized for.
        active: Mask of the stages that are not no-ops.
    """

    recipe: Recipe
    factor: Any
    window: Any
    maximize: bool
    structure: Hashable
    active: tuple[bool, ...]


@dataclass
class GroupStep:
    """The step of one parameter group.

    Attributes:
        index: Index of the group in the optimizer.
        group: The parameter group.
        start, stop: Range of its parameters in the lists of the `Step`.
        plan: The resolved settings.
        scalars: One entry for each distinct step count in the group. Groups with equal scalars share a list.
    """

    index: int
    group: Mapping[str, Any]
    start: int
    stop: int
    plan: GroupPlan
    scalars: list[StepScalars] = field(default_factory=list)

    def names(self) -> list[str]:
        """Return a display name for each parameter with a gradient."""
        params = self.group["params"]
        named = self.group.get("param_names") or [f"{i} of shape {tuple(p.shape)}" for i, p in enumerate(params)]
        return [f"parameter {name}" for name, p in zip(named, params, strict=True) if p.grad is not None]


@dataclass
class Step:
    """All parameters with a gradient, in the order of the groups.

    Attributes:
        groups: The groups that have such parameters.
        owners: The parameters.
        params, grads: The parameters and gradients, or their local tensors for DTensors.
        indices: Index of each parameter in the optimizer.
        states: State of each parameter.
        storage: Storage format for a parameter dtype.
        sharding: How the parameters are sharded.
        scalars_index: Index of each parameter into the scalars of its group, an array or list. Parameters that joined
            later have a smaller step count and so different scalars.
        copies: Gradients copied for kernels, kept alive until the step ends.
        written: Tensors that kernels write, by the id of their `KernelArgs`.
    """

    groups: list[GroupStep]
    owners: list[Tensor]
    params: list[Tensor]
    grads: list[Tensor]
    indices: list[int]
    states: list[dict[str, Any]]
    storage: Callable[[torch.dtype], StorageFormat]
    sharding: Sharding
    scalars_index: Any
    copies: list[Tensor] = field(default_factory=list)
    written: dict[int, list[Tensor]] = field(default_factory=dict)
    _group_of: list[GroupStep] = field(default_factory=list)

    def group_of(self) -> list[GroupStep]:
        """Return the group of each parameter."""
        if not self._group_of:
            self._group_of += [group for group in self.groups for _ in range(group.start, group.stop)]
        return self._group_of

    def tensor_step(self, i: int) -> TensorStep:
        """Return the step of parameter `i`."""
        p = self.params[i]
        stream = shard_rng_stream(self.indices[i], self.sharding.spec(i))
        return TensorStep(self.storage(p.dtype), stream, p, self.grads[i], self.states[i], int(self.scalars_index[i]))
