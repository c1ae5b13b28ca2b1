"""Creation and validation of the state of parameters.

Before loading a checkpoint, `torch.distributed.checkpoint` creates the state of a new optimizer: it sets all gradients
and learning rates to zero and calls `step()`. Such a step only creates the state. It does not change parameters or
counts and does not compute a Hessian-vector product, so that it has no effect on the run.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor

from dashpot.engine import dtensor
from dashpot.engine.eager import new_slots
from dashpot.engine.program import StorageFormat
from dashpot.engine.sharding import global_norm_and_finite, shard_spec
from dashpot.errors import ArgumentError
from dashpot.optimizers import cuda_graph
from dashpot.optimizers.steppable import Steppable
from dashpot.recipes.recipe import Recipe
from dashpot.stages.base import Slot
from dashpot.utils.scalars import is_number, read

# ---- the step of torch.distributed.checkpoint ------------------------------------------------------------------------


def is_state_init_step(optimizer: Steppable) -> bool:
    """Check for a step without state, with zero learning rates and gradients. The result is equal on all ranks."""
    if optimizer.state or cuda_graph.capturing() or not all(_is_zero(group["lr"]) for group in optimizer.param_groups):
        return False
    params = [p for group in optimizer.param_groups for p in with_gradients(group["params"])[0]]
    return bool(params) and not any(cast(Tensor, p.grad).requires_grad for p in params) and _all_zero(params)


def init_state(optimizer: Steppable) -> None:
    """Create the initial state of every parameter that has a gradient, and the counts of the groups."""
    found = []
    for index, group in enumerate(optimizer.param_groups):
        recipe = optimizer._plan_group(index, 0).recipe
        for p in with_gradients(group["params"])[0]:
            optimizer._check_gradient(p)
            found.append((p, recipe, p.device if group.get("capturable") else "cpu"))
    for p, recipe, device in found:
        optimizer.state[p]["step"] = torch.zeros((), dtype=torch.float32, device=device)
        complete_state(optimizer, recipe, p, optimizer.options.storage(p.dtype))
    for group in optimizer.param_groups:
        group.setdefault("steps_done", 0)


def _is_zero(lr: Any) -> bool:
    number = read(lr)  # a number or a CPU tensor
    return is_number(number) and number == 0


def _all_zero(params: Sequence[Tensor]) -> bool:
    found: dict[Any, bool] = {}
    for p in params:
        grad = dtensor.local(p.grad)
        zero = grad.layout == torch.strided and not bool(torch.count_nonzero(grad))
        found[shard_spec(p)] = found.get(shard_spec(p), True) and zero
    if found.keys() == {None}:
        return found[None]
    nothing = torch.zeros((), dtype=torch.float64)
    return bool(global_norm_and_finite({spec: (nothing, zero) for spec, zero in found.items()})[1])


# ---- the state of one parameter --------------------------------------------------------------------------------------


def complete_state(optimizer: Steppable, recipe: Recipe, p: Tensor, storage: StorageFormat) -> dict[str, Any]:
    """Create the missing slots of a parameter, and return its state.

    Raises:
        ArgumentError: If an existing slot cannot be used, or if a slot is missing while a CUDA graph is being recorded.
    """
    state = optimizer.state[p]
    for slot in storage.slots(recipe):
        if slot.key in state:
            _check_slot(type(optimizer).__name__, slot, state[slot.key], p)
    if any(slot.key not in state for slot in storage.slots(recipe)):
        reject_state_init_in_graph(optimizer)
        with torch.inference_mode(False):  # so that steps outside inference mode can write to the state
            for key, value in new_slots(recipe, p, storage).items():
                state.setdefault(key, value)
    return state


def _check_slot(owner: str, slot: Slot, value: Any, p: Tensor) -> None:
    if not isinstance(value, Tensor) or value.layout != torch.strided:
        got = f"layout {value.layout}" if isinstance(value, Tensor) else type(value).__name__
        raise ArgumentError(f"{owner}: state {slot.key!r} must be a dense tensor, got {got}; clear it to reinitialize.")
    if slot.shape == "elementwise" and value.shape != p.shape:
        raise ArgumentError(
            f"{owner}: state {slot.key!r} must have its parameter's shape {tuple(p.shape)}, "
            f"got {tuple(value.shape)}; reshape the state as well, or clear it."
        )
    if value.device != p.device:
        raise ArgumentError(
            f"{owner}: state {slot.key!r} must be on its parameter's device, {p.device}, got {value.device}."
        )
    is_complex = slot.shape == "elementwise" and p.is_complex()
    if not (value.is_complex() if is_complex else value.is_floating_point()):
        kind = "complex" if is_complex else "real"
        raise ArgumentError(f"{owner}: state {slot.key!r} must be a {kind} floating tensor, got {value.dtype}.")
    if (is_complex and value.is_conj()) or _is_expanded(value):
        raise ArgumentError(
            f"{owner}: state {slot.key!r} must own its elements, got a conjugated or expanded view; "
            "replace it with a clone."
        )


def _is_expanded(x: Tensor) -> bool:
    return not x.is_contiguous() and any(s == 0 and n > 1 for s, n in zip(x.stride(), x.shape, strict=True))


def set_step_count(state: dict[str, Any], count: int) -> None:
    """Store the step count as a 0-d float32 CPU tensor, as in torch, but with memory that no other tensor shares."""
    step = state.get("step")
    fits = type(step) is Tensor and step.dim() == 0 and step.dtype == torch.float32 and step.device.type == "cpu"
    if not fits or step.is_inference() or step.untyped_storage().nbytes() > step.nbytes:  # pyright: ignore[reportOptionalMemberAccess]
        with torch.inference_mode(False):
            state["step"] = torch.tensor(float(count), dtype=torch.float32, device="cpu")


def reject_state_init_in_graph(optimizer: Steppable) -> None:
    """Raise `ArgumentError` if a CUDA graph is being recorded, because state must be created before recording."""
    if cuda_graph.capturing():
        raise ArgumentError(
            f"{type(optimizer).__name__}: a CUDA graph cannot record the step that creates the state; "
            "take a step with the same parameters before capture."
        )


def with_gradients(params: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Return the parameters that have a gradient, and their gradients."""
    grads = [p.grad for p in params]
    if type(None) in map(type, grads):  # `None in grads` would compare tensors
        params = [p for p, g in zip(params, grads, strict=True) if g is not None]
        grads = [g for g in grads if g is not None]
    return params, cast(list[Tensor], grads)
