"""The eager engine: the stages in written order, one tensor at a time. The readable oracle for every other engine."""

from __future__ import annotations

import torch
from torch import Tensor

from dashpot.engine.program import AS_COMPUTED, COMPENSATION, Numbers, Storage, compute_dtype, one_step
from dashpot.recipe import Recipe

__all__ = ["new_slots", "step_tensor"]


def step_tensor(
    recipe: Recipe,
    storage: Storage,
    numbers: Numbers,
    p: Tensor,
    grad: Tensor,
    state: dict[str, Tensor],
) -> None:
    """One step of a parameter in place: `p` and the slots in `state` are written, `grad` is left as it is.

    Half-precision parameters are computed in float32 and rounded once; complex ones as pairs of reals. With gradients
    enabled the step is recorded from copies, so that writing the results back does not spoil the recording.
    """
    if p.numel() == 0:
        return
    own = torch.Tensor.clone if torch.is_grad_enabled() else _as_it_is
    working = {slot.key: own(_real(state[slot.key])) for slot in storage.slots(recipe)}
    w, g = own(_real(p)), own(_real(grad.resolve_conj()))
    index = positions(w) if storage.draws else None
    new, slots = one_step(recipe.lines, storage, compute_dtype(p.dtype), numbers, w, g, working, index)
    for key, value in slots.items():
        _real(state[key]).copy_(value)
    _real(p).copy_(new)


def new_slots(recipe: Recipe, p: Tensor, storage: Storage = AS_COMPUTED) -> dict[str, Tensor]:
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


def _real(x: Tensor) -> Tensor:
    return torch.view_as_real(x) if x.is_complex() else x
