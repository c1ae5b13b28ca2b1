"""Steps that an accelerator's graph can record: counted, scaled and, where need be, skipped on the device itself.

Nothing here looks at a tensor's value. What depends on the step count is computed from a tensor, for all parameters of
a group in one go, and a step that is not to be taken writes back what was there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dashpot.clip import norm_factor, total_norm
from dashpot.engine.eager import step_tensor
from dashpot.engine.group_step import TensorStep
from dashpot.engine.inductor import Inductor
from dashpot.engine.program import StepScalars, StorageFormat
from dashpot.engine.rounding import seed_word, stream
from dashpot.engine.tensor_table import step_count
from dashpot.optimizers.grad_check import StepDecision, norm_dtype
from dashpot.optimizers.options import ResolvedOptions
from dashpot.recipes.recipe import Recipe
from dashpot.stages.base import Clock
from dashpot.utils.scalars import scalar_dtype

__all__ = [
    "DevicePart",
    "DeviceStepCounts",
    "capturing",
    "check_gradients_on_device",
    "run_group_on_device",
    "scalars_on_device",
    "step_count_on_device",
]


@dataclass
class DevicePart:
    """The parameters of a group that lie on one device and have gradients, and the numbers of their step."""

    recipe: Recipe
    params: list[Tensor]
    grads: list[Tensor]
    states: list[dict[str, Any]]
    storages: list[StorageFormat]
    ordinals: list[int]
    tally: DeviceStepCounts
    scalars: list[StepScalars]
    ascends: bool


class DeviceStepCounts:
    """The step counts of parameters in one tensor on their device; each `state["step"]` is a view of its entry."""

    def __init__(self, counts: Sequence[Tensor], states: Sequence[dict[str, Any]]) -> None:
        self.steps = torch.stack(list(counts))
        self._views = self.steps.unbind()
        for state, view in zip(states, self._views, strict=True):
            state["step"] = view

    def fits(self, states: Sequence[dict[str, Any]]) -> bool:
        """True while these are the states it counts for, and nobody has put another count in one."""
        return len(states) == len(self._views) and all(
            state.get("step") is view for state, view in zip(states, self._views, strict=True)
        )

    def count(self, skip: Any) -> None:
        """One step more, or none where `skip` holds."""
        self.steps += (~skip).to(self.steps) if isinstance(skip, Tensor) else 1


def step_count_on_device(state: Mapping[str, Any], device: torch.device) -> Tensor:
    """The count of steps in a parameter's state, 0-d float32 on the device."""
    step = state.get("step")
    if isinstance(step, Tensor):
        return step.to(device, torch.float32).reshape(())
    return torch.full((), float(step_count(state)), device=device)


def scalars_on_device(
    recipe: Recipe, steps: Tensor, factor: Any, window: Any, limit: float | None, seed: int | None
) -> list[StepScalars]:
    """The numbers of the next step of each parameter, from their counts of steps done.

    A stage computes its scalars once, from a vector of step numbers.
    """
    t = (steps + 1).to(scalar_dtype(steps.device))
    scalars = recipe.scalars(Clock(t, recipe.lr, factor, window))
    words = 0 if seed is None else stream(seed_word(seed), (steps + 1).to(torch.int32))
    count = len(steps)
    columns = [[_each(value, count) for value in record] for record in scalars]
    each_t, each_word = _each(t, count), _each(words, count)
    return [
        StepScalars(
            Clock(each_t[i], recipe.lr, factor, window),
            tuple(
                type(record)(*(column[i] for column in values)) for record, values in zip(scalars, columns, strict=True)
            ),
            clip_value=limit,
            rng_key=each_word[i],
        )
        for i in range(count)
    ]


def _each(value: Any, count: int) -> Sequence[Any]:
    """One number for each of `count` parameters, from a number for each or one for all."""
    if isinstance(value, Tensor) and value.shape == (count,):
        return value.unbind()
    return [value] * count


def check_gradients_on_device(
    options: ResolvedOptions, grads: Sequence[Tensor], scaler: tuple[Any, Any]
) -> StepDecision:
    """`gate.judge` without an answer that anybody waits for: `skip` is a 0-d tensor where the step may be skipped."""
    loss_scale, found_inf = scaler
    inverse = 1.0 if loss_scale is None else loss_scale.to(scalar_dtype(loss_scale.device)).reciprocal()
    skip: Any = found_inf.to(torch.bool).reshape(()) if isinstance(found_inf, Tensor) else False
    wide = [g.detach().to(norm_dtype(g)) for g in grads if g.numel()]
    if not wide or (options.max_norm is None and options.nonfinite == "allow"):
        return StepDecision(inverse, skip)
    if options.nonfinite == "skip":
        place = wide[0].device
        finite = torch.stack([torch.isfinite(g).all().to(place) for g in wide]).all()
        skip = ~finite if skip is False else skip.to(place) | ~finite
    norm = total_norm(wide) * inverse
    if options.max_norm is None:
        return StepDecision(inverse, skip, norm)
    factor = norm_factor(norm, options.max_norm)
    return StepDecision(factor * inverse, skip, norm, factor < 1)


def run_group_on_device(part: DevicePart, decision: StepDecision, inductor: Inductor, elements: int) -> None:
    """Take the step of one part, or leave everything as it is where the verdict is to skip.

    `elements` are those of the whole step.
    """
    scale = decision.scale.to(part.tally.steps.device) if isinstance(decision.scale, Tensor) else decision.scale
    scalars = [n._replace(scale=-scale if part.ascends else scale) for n in part.scalars]
    works = [
        TensorStep(*item, row)
        for row, item in enumerate(zip(part.storages, part.ordinals, part.params, part.grads, part.states, strict=True))
    ]
    for work in inductor.run(part.recipe, works, scalars, elements, decision.skip):
        its = scalars[work.scalars_index]
        its = its._replace(rng_key=stream(its.rng_key, work.rng_stream)) if work.storage.is_stochastic else its
        step_tensor(part.recipe, work.storage, its, work.p, work.grad, work.state, decision.skip)
    part.tally.count(decision.skip)


def capturing() -> bool:
    """True while what runs on the present stream is recorded into a CUDA graph, instead of done."""
    return torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing()
