"""One step without host synchronization (`capturable=True`), which a CUDA graph can record."""

from __future__ import annotations

import torch

from dashpot.engine import dtensor
from dashpot.engine.group_step import GroupStep, Step
from dashpot.errors import ArgumentError
from dashpot.optimizers import cuda_graph
from dashpot.optimizers.grad_check import StepDecision
from dashpot.optimizers.initial_state import complete_state, reject_state_init_in_graph, with_gradients
from dashpot.optimizers.step import UNSHARDED
from dashpot.optimizers.steppable import Steppable


class CapturableStepper:
    """The capturable step of one optimizer, with step counts on the devices of the parameters."""

    def __init__(self) -> None:
        self._counts: dict[tuple[int, torch.device], cuda_graph.DeviceStepCounts] = {}

    def take(self, optimizer: Steppable, done: int) -> StepDecision:
        """Step every parameter that has a gradient. The device decides whether the step is skipped.

        Args:
            optimizer: The optimizer.
            done: Number of steps taken before this one.
        """
        if cuda_graph.capturing() and optimizer.schedule:
            raise ArgumentError(
                f"{type(optimizer).__name__}: a schedule is computed on the host, and a CUDA graph would freeze it; "
                "pass lr as a tensor and write to it between replays."
            )
        step = Step([], [], [], [], [], [], optimizer.options.storage, UNSHARDED, [])
        before = 0
        for index, group in enumerate(optimizer.param_groups):
            plan = optimizer._plan_group(index, done)
            params, grads = with_gradients(group["params"])
            dtensor.reject_dtensors(type(optimizer).__name__, params)
            for p in params:
                optimizer._check_gradient(p)
            numbers = [before + i for i, p in enumerate(group["params"]) if p.grad is not None]
            before += len(group["params"])
            for device in dict.fromkeys(p.device for p in params):
                at = [i for i, p in enumerate(params) if p.device == device]
                start, stop = len(step.params), len(step.params) + len(at)
                step.groups.append(GroupStep(index, group, start, stop, plan))
                step.params += [params[i] for i in at]
                step.grads += [grads[i] for i in at]
                step.indices += [numbers[i] for i in at]
                step.scalars_index += range(len(at))
        step.owners = step.params
        counts = [self._complete_group(optimizer, step, group) for group in step.groups]
        decision = cuda_graph.check_gradients_on_device(optimizer.options, step.grads, optimizer._scaler())
        inductor = optimizer._backend.inductor
        elements = inductor.elements(step.params)
        for group, steps in zip(step.groups, counts, strict=True):
            cuda_graph.run_group_on_device(step, group, steps, decision, inductor, elements)
        for group in optimizer.param_groups if step.groups else ():
            group["steps_done"] = done + 1
        return decision

    def _complete_group(self, optimizer: Steppable, step: Step, group: GroupStep) -> cuda_graph.DeviceStepCounts:
        """Complete the state of the parameters of a group on one device, and compute their scalars."""
        params, device = step.params[group.start : group.stop], step.params[group.start].device
        counts = self._counts.get((group.index, device))
        if counts is None or not counts.is_valid_for([optimizer.state.get(p, {}) for p in params]):
            reject_state_init_in_graph(optimizer)
            counts = None
        saved = [] if counts else [cuda_graph.step_count_on_device(optimizer.state.get(p, {}), device) for p in params]
        recipe = group.plan.recipe
        states = [complete_state(optimizer, recipe, p, step.storage(p.dtype)) for p in params]
        if counts is None:
            counts = self._counts[group.index, device] = cuda_graph.DeviceStepCounts(saved, states)
        step.states += states
        seed = group.group.get("seed")
        group.scalars = cuda_graph.scalars_on_device(group.plan, counts.steps, optimizer.options.clip_value, seed)
        return counts
