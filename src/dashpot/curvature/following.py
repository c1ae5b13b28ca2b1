"""Seeing the backward passes inside a closure, so that products can be taken where ordinary code calls `backward`."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from dashpot.curvature.forward import without_tangents
from dashpot.errors import CurvatureError

__all__ = ["BackwardCall", "evaluate"]

BackwardCall = Callable[[Tensor, dict[str, Any]], None]
"""What to do instead of `loss.backward(**kwargs)`."""


class _Following(TorchFunctionMode):
    """While open, every `Tensor.backward` of this thread goes to a function; `passes` counts them."""

    def __init__(self, on_backward: BackwardCall) -> None:
        super().__init__()
        self._on_backward, self.passes = on_backward, 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not Tensor.backward:
            with nullcontext() if torch.is_grad_enabled() else without_tangents():
                return func(*args, **(kwargs or {}))
        self.passes += 1
        self._on_backward(args[0], _arguments(args[1:], kwargs or {}))
        return None


def _arguments(args: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments of `Tensor.backward` by name, without those left at their defaults."""
    named = dict(zip(("gradient", "retain_graph", "create_graph", "inputs"), args, strict=False)) | kwargs
    return {name: value for name, value in named.items() if value is not None and value is not False}


def evaluate(owner: str, closure: Callable[[], Any], on_backward: BackwardCall, *, may_return: bool) -> Any:
    """Call `closure` with gradients enabled and give its backward passes to a function.

    With `may_return` a closure without any may return a loss, which then goes to the function. Returns what the closure
    returned; raises `CurvatureError` where that is no loss.
    """
    with torch.enable_grad():
        with _Following(on_backward) as following:
            loss = closure()
        if not _is_loss(loss):
            got = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else repr(loss)
            raise CurvatureError(f"{owner}: the closure must return the loss, one number, got {got}.")
        if following.passes == 0:
            if not may_return:
                raise CurvatureError(f"{owner}: the closure given to step must call backward.")
            if not isinstance(loss, Tensor) or not loss.requires_grad:
                raise CurvatureError(
                    f"{owner}: the closure must call backward or return a loss that depends on the parameters, "
                    f"got {loss!r}."
                )
            on_backward(loss, {})
    return loss


def _is_loss(loss: Any) -> bool:
    if isinstance(loss, Tensor):
        return loss.numel() == 1 and not loss.is_complex()
    return isinstance(loss, (int, float)) and not isinstance(loss, bool)
