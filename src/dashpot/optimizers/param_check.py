"""Checks of one parameter before a step: its gradient is valid, and its tensors can be read and written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from dashpot.errors import ArgumentError

_PLAIN = (Tensor, torch.nn.Parameter)


def check_gradient(owner: str, p: Tensor, state: Mapping[str, Any], *, differentiable: bool) -> None:
    """Check that a gradient matches its parameter, and that all tensors can be written.

    Args:
        owner: Class name of the optimizer, for messages.
        p: The parameter, which must have a gradient.
        state: The state of the parameter.
        differentiable: Whether autograd records the step.

    Raises:
        ArgumentError: If the gradient differs from the parameter in layout, dtype, device or shape, or if a tensor
            cannot be written.
    """
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
            f"{owner}: parameters must not be leaves that require gradients with differentiable=True, which writes the "
            f"recorded step into them, got a leaf of shape {tuple(p.shape)}; pass clones."
        )
    kept = {key: value for key, value in state.items() if isinstance(value, Tensor)}
    frozen = [key for key, value in kept.items() if value.is_inference() and key != "step"]
    frozen = ["the parameter", *frozen] if p.is_inference() else frozen
    if frozen and not torch.is_inference_mode_enabled():
        raise ArgumentError(
            f"{owner}: {frozen[0]} of shape {tuple(p.shape)} was made in inference mode and cannot be updated "
            "outside it; replace it with a clone."
        )
    if any(map(_is_without_memory, (p, grad, *kept.values()))):
        raise ArgumentError(
            f"{owner}: a parameter of shape {tuple(p.shape)}, its gradient and its state must have memory, got a "
            "tensor whose storage was resized to zero bytes."
        )


def _is_without_memory(x: Tensor) -> bool:
    """Check for a tensor whose storage was resized to zero bytes; reading such a tensor is undefined behavior."""
    if type(x) not in _PLAIN or x.layout != torch.strided or x.data_ptr() != 0:
        return False
    return x.numel() > 0 and x.device.type != "meta" and not torch.compiler.is_compiling()
