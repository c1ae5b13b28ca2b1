"""Steps that a CUDA graph can record: counting, scaling and skipping take place on the device.

The host never reads the value of a tensor. The scalars of all parameters in a group are computed at once from a tensor
of step counts. A skipped step writes back the old values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from dashpot.clip import norm_factor, total_norm
from dashpot.engine.eager import step_tensor
from dashpot.engine.group_step import GroupPlan, GroupStep, Step
from dashpot.engine.inductor import Inductor
from dashpot.engine.program import StepScalars
from dashpot.engine.rounding import seed_word, stream
from dashpot.engine.tensor_table import step_count
from dashpot.optimizers.grad_check import StepDecision, norm_dtype
from dashpot.optimizers.options import ResolvedOptions
from dashpot.stages.base import Clock
from dashpot.utils.scalars import scalar_dtype


class DeviceStepCounts:
    """One tensor with the step counts of several parameters. Each `state["step"]` becomes a view of one of its entries.

    Args:
        counts: Step counts, as 0-d tensors on one device.
        states: States of the parameters.

    Attributes:
        steps: The step counts, a tensor of shape (n,).
    """

    def __init__(self, counts: Sequence[Tensor], states: Sequence[dict[str, Any]]) -> None:
        self.steps = torch.stack(list(counts))
        self._views = self.steps.unbind()
        for state, view in zip(states, self._views, strict=True):
            state["step"] = view

    def is_valid_for(self, states: Sequence[dict[str, Any]]) -> bool:
        """Check that the step counts in `states` are still the views of this object."""
        return len(states) == len(self._views) and all(
            state.get("step") is view for state, view in zip(states, self._views, strict=True)
        )

    def increment(self, skip: Any) -> None:
        """Increment the counts unless `skip` is true."""
        self.steps += (~skip).to(self.steps) if isinstance(skip, Tensor) else 1


def step_count_on_device(state: Mapping[str, Any], device: torch.device) -> Tensor:
    """Return the step count in a parameter's state as a 0-d float32 tensor on `device`."""
    step = state.get("step")
    if isinstance(step, Tensor):
        return step.to(device, torch.float32).reshape(())
    return torch.full((), float(step_count(state)), device=device)


def scalars_on_device(plan: GroupPlan, steps: Tensor, clip_value: float | None, seed: int | None) -> list[StepScalars]:
    """Return the scalars of the next step of each parameter.

    Each stage computes its scalars only once, from a vector of step numbers.

    Args:
        plan: The plan of the group.
        steps: Number of steps taken by each parameter, a tensor of shape (n,).
        clip_value: Bound on the elements of the gradient, or None.
        seed: Seed for stochastic rounding, or None.
    """
    t = (steps + 1).to(scalar_dtype(steps.device))
    recipe, n = plan.recipe, len(steps)
    stages = recipe.scalars(Clock(t, recipe.lr, plan.factor, plan.window))
    rng_keys = 0 if seed is None else stream(seed_word(seed), (steps + 1).to(torch.int32))
    columns = [[_unbind(value, n) for value in record] for record in stages]
    rows = zip(_unbind(t, n), _unbind(rng_keys, n), range(n), strict=True)
    return [
        StepScalars(
            Clock(own_t, recipe.lr, plan.factor, plan.window),
            tuple(type(record)(*(c[i] for c in values)) for record, values in zip(stages, columns, strict=True)),
            clip_value=clip_value,
            rng_key=rng_key,
        )
        for own_t, rng_key, i in rows
    ]


def _unbind(value: Any, n: int) -> Sequence[Any]:
    """Split a tensor of shape (n,) into its n entries; repeat any other value n times."""
    if isinstance(value, Tensor) and value.shape == (n,):
        return value.unbind()
    return [value] * n


def check_gradients_on_device(
    options: ResolvedOptions, grads: Sequence[Tensor], scaler: tuple[Any, Any]
) -> StepDecision:
    """Check gradients like `check_gradients`, but without a host sync. `skip` is a 0-d tensor if skips are enabled."""
    loss_scale, found_inf = scaler
    inverse = 1.0 if loss_scale is None else loss_scale.to(scalar_dtype(loss_scale.device)).reciprocal()
    skip: Any = found_inf.to(torch.bool).reshape(()) if isinstance(found_inf, Tensor) else False
    wide = [g.detach().to(norm_dtype(g)) for g in grads if g.numel()]
    if not wide or (options.max_norm is None and options.nonfinite == "allow"):
        return StepDecision(inverse, skip)
    if options.nonfinite == "skip":
        device = wide[0].device
        finite = torch.stack([torch.isfinite(g).all().to(device) for g in wide]).all()
        skip = ~finite if skip is False else skip.to(device) | ~finite
    norm = total_norm(wide) * inverse
    if options.max_norm is None:
        return StepDecision(inverse, skip, norm)
    factor = norm_factor(norm, options.max_norm)
    return StepDecision(factor * inverse, skip, norm, factor < 1)


def run_group_on_device(
    step: Step, group: GroupStep, counts: DeviceStepCounts, decision: StepDecision, inductor: Inductor, elements: int
) -> None:
    """Step the parameters of a group on one device, or leave them unchanged if the step is skipped.

    Args:
        step: The step.
        group: The group.
        counts: The step counts of the group's parameters.
        decision: Factor on the gradients, and whether to skip the step.
        inductor: The compiled steps.
        elements: Number of elements of all tensors of the step on accelerators.
    """
    recipe, scale = group.plan.recipe, decision.scale
    scale = scale.to(counts.steps.device) if isinstance(scale, Tensor) else scale
    scalars = [s._replace(scale=-scale if group.plan.maximize else scale) for s in group.scalars]
    tensors = [step.tensor_step(i) for i in range(group.start, group.stop)]
    for tensor in inductor.run(recipe, tensors, scalars, elements, decision.skip):
        own = scalars[tensor.scalars_index]
        own = own._replace(rng_key=stream(own.rng_key, tensor.rng_stream)) if tensor.storage.is_stochastic else own
        step_tensor(recipe, tensor.storage, own, tensor.p, tensor.grad, tensor.state, decision.skip)
    counts.increment(decision.skip)


def capturing() -> bool:
    """Return whether the current stream is being recorded into a CUDA graph."""
    return torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing()
