"""The eager engine: the stages in written order, one tensor at a time. The readable oracle for every other engine."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from dashpot.errors import ArgumentError
from dashpot.recipe import Recipe
from dashpot.stages.base import Clock, Signal
from dashpot.stages.update import updated

__all__ = ["WholeTensor", "advance", "compute_dtype", "new_slots", "step_tensor"]


class WholeTensor:
    """Reductions over one whole tensor: the context of an engine that holds each parameter by itself."""

    def mean(self, x: Tensor) -> Tensor:
        """The mean over all elements, 0-d."""
        return x.mean()

    def norm(self, x: Tensor) -> Tensor:
        """The Frobenius norm, 0-d."""
        return torch.linalg.vector_norm(x)


_CONTEXT = WholeTensor()


def advance(
    recipe: Recipe, scalars: tuple[Any, ...], clock: Clock, w: Tensor, g: Tensor, state: Mapping[str, Tensor]
) -> tuple[Tensor, dict[str, Tensor]]:
    """One step of one real tensor as a pure function: the new weight and the new slots by key."""
    x = Signal(w=w, g=g, d=1.0, v=g, rate=clock.lr, shrink=None)
    slots: dict[str, Tensor] = {}
    for line, c in zip(recipe.lines, scalars, strict=True):
        x, s = line.stage.apply(x, line.state_type(*(state[key] for key in line.keys)), c, _CONTEXT)
        slots.update(zip(line.keys, s, strict=True))
        if x.v.shape != w.shape:
            name = type(line.stage).__name__
            raise ArgumentError(f"{name}: the direction must keep the shape {tuple(w.shape)}, got {tuple(x.v.shape)}.")
    return updated(x, clock.factor), slots


def step_tensor(
    recipe: Recipe, scalars: tuple[Any, ...], clock: Clock, p: Tensor, grad: Tensor, state: dict[str, Tensor]
) -> None:
    """One step of a parameter in place: `p` and the slots in `state` are written, `grad` is left as it is.

    Half-precision parameters are computed in float32 and rounded once; complex ones as pairs of reals. With gradients
    enabled the step is recorded from copies, so that writing the results back does not spoil the recording.
    """
    if p.numel() == 0:
        return
    to = partial(torch.Tensor.to, dtype=compute_dtype(p.dtype), copy=torch.is_grad_enabled())
    working = {key: to(_real(value)) for key, value in state.items() if key != "step"}
    w, slots = advance(recipe, scalars, clock, to(_real(p)), to(_real(grad.resolve_conj())), working)
    for key, value in slots.items():
        _real(state[key]).copy_(value)
    _real(p).copy_(w)


def new_slots(recipe: Recipe, p: Tensor) -> dict[str, Tensor]:
    """Fresh state of one parameter: every slot of the recipe at its initial value, in the parameter's precision
    or float32 where that is half."""
    dtype = compute_dtype(p.dtype)
    slots: dict[str, Tensor] = {}
    for slot in recipe.slots:
        if slot.shape == "elementwise":
            kind = p.dtype if p.is_complex() else dtype
            value = torch.empty_like(p, dtype=kind, memory_format=torch.preserve_format, requires_grad=False)
        else:
            value = torch.empty((), dtype=dtype, device=p.device)
        slots[slot.key] = value.fill_(slot.initial)
    return slots


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """The real dtype in which a parameter of `dtype` is updated.

    >>> compute_dtype(torch.bfloat16), compute_dtype(torch.complex128)
    (torch.float32, torch.float64)
    """
    real = dtype.to_real() if dtype.is_complex else dtype
    return torch.float32 if real.itemsize < 4 else real


def _real(x: Tensor) -> Tensor:
    return torch.view_as_real(x) if x.is_complex() else x
