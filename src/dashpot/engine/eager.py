"""The eager engine, the reference for all others: it applies the stages in order to one tensor at a time.

If the recipe allows it, `blockwise.py` runs the same operations on blocks. A block consists of several small tensors or
of a part of a large tensor.
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
    """Step one parameter, updating `p` and the slots in `state` in place.

    Steps of half-precision parameters are computed in float32 and rounded once. Complex parameters are processed as
    pairs of reals. If gradients are enabled, autograd records the step on copies, so that writing back the results does
    not invalidate the graph.

    Args:
        recipe: The recipe.
        storage: The storage format.
        scalars: The scalars of the step.
        p: The parameter.
        grad: The gradient of the parameter; not modified.
        state: The state of the parameter.
        skip: False or a 0-d tensor; if its value is true, the old values are written back.
        context: Reductions over the whole tensor.
    """
    if p.numel() == 0 and context is WHOLE_TENSOR:  # an empty shard must still participate in reductions
        return
    copy = torch.Tensor.clone if torch.is_grad_enabled() else _identity
    targets = {slot.key: _working_view(state[slot.key], slot.shape == "per_tensor") for slot in storage.slots(recipe)}
    working = {key: copy(target) for key, target in targets.items()}
    w, g = copy(_working_view(p)), copy(_working_view(grad.resolve_conj()))
    index = positions(w) if storage.is_stochastic else None
    new, slots = one_step(recipe.bound_stages, storage, compute_dtype(p.dtype), scalars, w, g, working, index, context)
    if isinstance(skip, Tensor):
        skip = skip.to(w.device)
        new, slots = torch.where(skip, w, new), {k: torch.where(skip, working[k], v) for k, v in slots.items()}
    for key, value in slots.items():
        targets[key].copy_(value)
    _working_view(p).copy_(new)


def observe_tensor(
    recipe: Recipe,
    storage: StorageFormat,
    scalars: StepScalars,
    p: Tensor,
    observation: Observation,
    state: dict[str, Tensor],
    context: Context = WHOLE_TENSOR,
) -> None:
    """Update the state of a parameter in place from a Hessian-vector product.

    The arguments are those of `step_tensor`. `observation` contains real tensors with the shape of `real_view(p)`.
    """
    copy = torch.Tensor.clone if torch.is_grad_enabled() else _identity  # as in `step_tensor`
    targets = {slot.key: _working_view(state[slot.key], slot.shape == "per_tensor") for slot in storage.slots(recipe)}
    working = {key: copy(target) for key, target in targets.items()}
    index = positions(_working_view(p)) if storage.is_stochastic else None
    observation = observation._replace(v=_working_view(observation.v), hv=_working_view(observation.hv))
    slots = one_observation(
        recipe.bound_stages, storage, compute_dtype(p.dtype), scalars, observation, working, index, context
    )
    for key, value in slots.items():
        targets[key].copy_(value)


def new_slots(recipe: Recipe, p: Tensor, storage: StorageFormat = DEFAULT_FORMAT) -> dict[str, Tensor]:
    """Return the initial slots of a parameter.

    Elementwise slots have the `state_dtype` of the storage format if it is not None. Otherwise they have the precision
    of the parameter, but at least float32.
    """
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
        real_view(value).fill_(slot.initial)  # in torch, too, both parts of complex state have the initial value
        slots[slot.key] = value
    return slots


def positions(x: Tensor) -> Tensor:
    """Return each element's position in memory as int32; if `x` is not dense, return positions in contiguous order."""
    flat = torch.arange(x.numel(), dtype=torch.int32, device=x.device)
    strided = torch.empty_like(x, dtype=torch.int32)
    return flat.as_strided(x.shape, strided.stride())


def _identity(x: Tensor) -> Tensor:
    return x


def real_view(x: Tensor) -> Tensor:
    """View a complex tensor as pairs of reals; return a real tensor unchanged."""
    return torch.view_as_real(x) if x.is_complex() else x


def _working_view(x: Tensor, per_tensor: bool = False) -> Tensor:
    """View a weight or its state as a real tensor, with at least one dimension unless `per_tensor`.

    If the weight were 0-d, torch would compute its operations with scalar tensors in the precision of the scalars.
    """
    x = real_view(x)
    return x.view(1) if x.dim() == 0 and not per_tensor else x
