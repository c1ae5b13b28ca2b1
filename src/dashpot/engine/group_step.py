"""The plan of one optimizer step, which is complete before any tensor is written."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dashpot.engine.program import StepScalars, StorageFormat
from dashpot.engine.sharding import Sharding, shard_rng_stream
from dashpot.recipes.recipe import Recipe


class TensorStep(NamedTuple):
    """The step of one tensor.

    Attributes:
        storage: The storage format of the weight and its state.
        rng_stream: Number of the tensor's random stream, for stochastic rounding.
        p, grad, state: The weight, its gradient and its state.
        scalars_index: Index of the tensor's entry in the scalars of the group.
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
        factor, window: The values of the fields `factor` and `window` of `Clock`.
        maximize: Whether the step maximizes the objective.
        structure: The stages and non-numeric settings for which kernels are specialized.
        active: For each stage, whether it is active, that is, not a no-op.
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
        start, stop: The range of positions of the group's parameters in the lists of the `Step`.
        plan: The resolved settings of the group.
        scalars: The scalars for each distinct step count in the group. Groups with equal scalars share a list.
    """

    index: int
    group: Mapping[str, Any]
    start: int
    stop: int
    plan: GroupPlan
    scalars: list[StepScalars] = field(default_factory=list)

    def names(self) -> list[str]:
        """Return the display name of each parameter that has a gradient."""
        params = self.group["params"]
        named = self.group.get("param_names") or [f"{i} of shape {tuple(p.shape)}" for i, p in enumerate(params)]
        return [f"parameter {name}" for name, p in zip(named, params, strict=True) if p.grad is not None]


@dataclass
class Step:
    """One step of an optimizer: all parameters that have a gradient, in the order of the groups.

    Attributes:
        groups: The steps of the groups in which at least one parameter has a gradient.
        owners: The parameters as the optimizer holds them, which may be DTensors.
        params, grads: The parameters and their gradients. DTensors are replaced by their local tensors.
        indices: Index of each parameter in the optimizer.
        states: Optimizer state of each parameter.
        storage: Function that returns the storage format for a parameter dtype.
        sharding: Sharding of the parameters.
        scalars_index: For each parameter, the index of its entry in the scalars of its group; an array or list.
            A parameter that was added later has a smaller step count and therefore different scalars.
        copies: Copies of gradients that kernels read, kept alive until the end of the step.
        written: Tensors that kernels write, keyed by the id of their `KernelArgs`.
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
