"""Checks of one parameter before a step: its gradient, and the memory of what the step touches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from dashpot.errors import ArgumentError

__all__ = ["check_gradient"]

_PLAIN = (Tensor, torch.nn.Parameter)


def check_gradient(owner: str, p: Tensor, state: Mapping[str, Any], *, differentiable: bool) -> None:
    """Raise `ArgumentError` for a gradient of another layout, dtype, device or shape than its parameter's, and for
    tensors that cannot be written."""
    grad = p.grad
    assert grad is not None
    if grad.layout != torch.strided:
        raise ArgumentError(f"{owner}: gradients must be dense, got layout {grad.layout} for shape {tuple(p.shape)}.")
    if grad.dtype != p.dtype or grad.device != p.device or grad.shape != p.shape:
        name = next(name for name in ("dtype", "device", "shape") if getattr(grad, name) != getattr(p, name))
        raise ArgumentError(
            f"{owner}: a gradient's {name} must be its parameter's, {getattr(p, name)}, got {getattr(grad, name)}."
        )
    if differentiable and p.is_leaf and p.requires_grad:
        raise ArgumentError(
            f"{owner}: differentiable=True writes the recorded step into the parameters, which must not be leaves "
            f"that require gradients: give clones of them, got a leaf of shape {tuple(p.shape)}."
        )
    kept = {key: value for key, value in state.items() if isinstance(value, Tensor)}
    frozen = [key for key, value in kept.items() if value.is_inference() and key != "step"]
    frozen = ["the parameter", *frozen] if p.is_inference() else frozen
    if frozen and not torch.is_inference_mode_enabled():
        raise ArgumentError(
            f"{owner}: {frozen[0]} of shape {tuple(p.shape)} was made in inference mode and cannot be changed "
            "outside it; put a clone in its place."
        )
    if any(map(_is_without_memory, (p, grad, *kept.values()))):
        raise ArgumentError(
            f"{owner}: the memory of a parameter of shape {tuple(p.shape)}, of its gradient or of its state "
            "was released (its storage has no bytes)."
        )


def _is_without_memory(x: Tensor) -> bool:
    """True for a tensor whose storage was resized to nothing: whoever reads an element of it reads anything."""
    if type(x) not in _PLAIN or x.layout != torch.strided or x.data_ptr() != 0:
        return False
    return x.numel() > 0 and x.device.type != "meta" and not torch.compiler.is_compiling()
