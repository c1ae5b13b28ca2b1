"""The eager engine: the stages in written order, here one tensor at a time. The readable oracle for every other engine.

`blocks.py` runs the same on many elements at a time where a recipe allows it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dashpot.engine.program import (
    COMPENSATION,
    DEFAULT_FORMAT,
    WHOLE_TENSOR,
    StepScalars,
    StorageFormat,
    compute_dtype,
    one_observation,
    one_step,
)
from dashpot.recipes.recipe import Recipe
from dashpot.stages.base import Context, Observation

__all__ = ["new_slots", "observe_tensor", "real_view", "step_tensor"]


def step_tensor(
    recipe: Recipe,
    storage: StorageFormat,
    scalars: StepScalars,
    p: Tensor,
    grad: Tensor,
    state: dict[str, Tensor],
    skip: Any = False,
    context: Context = WHOLE_TENSOR,
) -> None:
    """One step of a parameter in place: `p` and the slots in `state` are written, `grad` is left as it is.

    Where `skip`, a 0-d tensor, holds, what was there is written back. Half-precision parameters are computed in float32
    and rounded once; complex ones as pairs of reals. With gradients enabled the step is recorded from copies, so that
    writing the results back does not spoil the recording.
    """
    if p.numel() == 0 and context is WHOLE_TENSOR:  # an empty piece of a larger tensor takes part in its reductions
        return
    own = torch.Tensor.clone if torch.is_grad_enabled() else _as_it_is
    kept = {slot.key: _place(state[slot.key], slot.shape == "per_tensor") for slot in storage.slots(recipe)}
    working = {key: own(place) for key, place in kept.items()}
    w, g = own(_place(p)), own(_place(grad.resolve_conj()))
    index = positions(w) if storage.is_stochastic else None
    new, slots = one_step(recipe.bound_stages, storage, compute_dtype(p.dtype), scalars, w, g, working, index, context)
    if isinstance(skip, Tensor):
        skip = skip.to(w.device)
        new, slots = torch.where(skip, w, new), {k: torch.where(skip, working[k], v) for k, v in slots.items()}
    for key, value in slots.items():
        kept[key].copy_(value)
    _place(p).copy_(new)


def observe_tensor(
    recipe: Recipe,
    storage: StorageFormat,
    scalars: StepScalars,
    p: Tensor,
    seen: Observation,
    state: dict[str, Tensor],
    context: Context = WHOLE_TENSOR,
) -> None:
    """Take a Hessian-vector product of a parameter into its state, in place.

    `seen` holds real tensors, shaped like `p` or, where that is complex, like its pairs of reals.
    """
    own = torch.Tensor.clone if torch.is_grad_enabled() else _as_it_is  # as in `step_tensor`
    kept = {slot.key: _place(state[slot.key], slot.shape == "per_tensor") for slot in storage.slots(recipe)}
    working = {key: own(place) for key, place in kept.items()}
    index = positions(_place(p)) if storage.is_stochastic else None
    seen = seen._replace(v=_place(seen.v), hv=_place(seen.hv))
    slots = one_observation(
        recipe.bound_stages, storage, compute_dtype(p.dtype), scalars, seen, working, index, context
    )
    for key, value in slots.items():
        kept[key].copy_(value)


def new_slots(recipe: Recipe, p: Tensor, storage: StorageFormat = DEFAULT_FORMAT) -> dict[str, Tensor]:
    """Fresh state of one parameter: every slot of the recipe at its initial value, in the parameter's precision
    or float32 where that is half, or in the storage's own dtype."""
    dtype = compute_dtype(p.dtype)
    slots: dict[str, Tensor] = {}
    for slot in storage.slots(recipe):
        if slot.key == COMPENSATION:
            value = torch.zeros_like(p, requires_grad=False)
        elif slot.shape == "elementwise":
            kind = storage.state_dtype or (p.dtype if p.is_complex() else dtype)
            value = torch.empty_like(p, dtype=kind, memory_format=torch.preserve_format, requires_grad=False)
        else:
            value = torch.empty((), dtype=dtype, device=p.device)
        slots[slot.key] = value.fill_(slot.initial)
    return slots


def positions(x: Tensor) -> Tensor:
    """The place of each element in memory, int32, shaped like `x`; its own order where `x` does not fill its memory."""
    flat = torch.arange(x.numel(), dtype=torch.int32, device=x.device)
    strided = torch.empty_like(x, dtype=torch.int32)
    return flat.as_strided(x.shape, strided.stride())


def _as_it_is(x: Tensor) -> Tensor:
    return x


def real_view(x: Tensor) -> Tensor:
    """A complex tensor as pairs of reals, sharing its memory; any other as it is."""
    return torch.view_as_real(x) if x.is_complex() else x


def _place(x: Tensor, single: bool = False) -> Tensor:
    """A real view of a weight or its state. A weight of no dimension gets one: torch would compute it in the precision
    of the scalars, where these are tensors."""
    x = real_view(x)
    return x.view(1) if x.dim() == 0 and not single else x
