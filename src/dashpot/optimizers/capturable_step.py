"""One step on the device itself (`capturable=True`): `stepper` without a look at any tensor's value."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from dashpot.engine import dtensor
from dashpot.errors import ArgumentError
from dashpot.optimizers import cuda_graph
from dashpot.optimizers.grad_check import StepDecision
from dashpot.optimizers.step import complete_state, ordinals, reject_state_init_in_graph, with_gradients
from dashpot.recipes.recipe import Recipe

if TYPE_CHECKING:
    from dashpot.optimizers.base import Optimizer

__all__ = ["CapturableStepper"]


class CapturableStepper:
    """Takes the steps of one optimizer on its parameters' devices."""

    def __init__(self) -> None:
        self._tallies: dict[tuple[int, torch.device], cuda_graph.DeviceStepCounts] = {}

    def take(self, optimizer: Optimizer, done: int) -> StepDecision:
        """One step of every parameter with a gradient; a graph can record it, and what to skip the device decides."""
        if cuda_graph.capturing() and optimizer._schedule:
            raise ArgumentError(
                f"{type(optimizer).__name__}: a schedule is a function on the host, which a CUDA graph would freeze; "
                "give lr as a tensor and write to it between replays."
            )
        plans = []
        for index, group in enumerate(optimizer.param_groups):
            params, _ = with_gradients(group["params"])
            optimizer._check_settings({name: group[name] for name in optimizer._FLAGS if name in group})
            optimizer._check_capturable(bool(group.get("capturable")))
            dtensor.reject_dtensors(type(optimizer).__name__, params)
            for p in params:
                optimizer._check_gradient(p)
            plans.append((index, group, params, optimizer._resolve_group(group, done)))
        parts = [part for plan in plans for part in self._parts(optimizer, *plan)]
        decision = cuda_graph.check_gradients_on_device(
            optimizer.options, [g for part in parts for g in part.grads], optimizer._scaler()
        )
        elements = optimizer._backend.inductor.elements(p for part in parts for p in part.params)
        for part in parts:
            cuda_graph.run_group_on_device(part, decision, optimizer._backend.inductor, elements)
        for group in optimizer.param_groups if parts else ():
            group["steps_done"] = done + 1
        return decision

    def _parts(
        self,
        optimizer: Optimizer,
        index: int,
        group: dict[str, Any],
        params: list[Tensor],
        in_force: tuple[Recipe, Any, Any],
    ) -> list[cuda_graph.DevicePart]:
        """A group's parameters by the device they lie on, with state for each and their numbers."""
        recipe, factor, window = in_force
        scalars = dict(zip(map(id, params), ordinals(optimizer, index), strict=True))
        parts = []
        for device in dict.fromkeys(p.device for p in params):
            here = [p for p in params if p.device == device]
            tally = self._tallies.get((index, device))
            if tally is None or not tally.fits([optimizer.state.get(p, {}) for p in here]):
                reject_state_init_in_graph(optimizer)
                tally = None
            counts = (
                [] if tally else [cuda_graph.step_count_on_device(optimizer.state.get(p, {}), device) for p in here]
            )
            storages = [optimizer.options.storage(p.dtype) for p in here]
            states = [complete_state(optimizer, recipe, p, storage) for p, storage in zip(here, storages, strict=True)]
            if tally is None:
                tally = self._tallies[index, device] = cuda_graph.DeviceStepCounts(counts, states)
            limit, seed = optimizer.options.clip_value, group.get("seed")
            parts.append(
                cuda_graph.DevicePart(
                    recipe,
                    here,
                    [cast(Tensor, p.grad) for p in here],
                    states,
                    storages,
                    [scalars[id(p)] for p in here],
                    tally,
                    cuda_graph.scalars_on_device(recipe, tally.steps, factor, window, limit, seed),
                    optimizer._maximizes(group),
                )
            )
        return parts
