"""Interception of `Tensor.backward` calls inside a closure, to compute Hessian-vector products during the call."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from dashpot.constraints import plain, shown
from dashpot.curvature.forward_over_reverse import without_tangents
from dashpot.errors import CurvatureError
from dashpot.utils.scalars import is_number

BackwardCall = Callable[[Tensor, dict[str, Any]], None]
"""Replacement of `loss.backward(**kwargs)`."""


class Evaluation(NamedTuple):
    """Return value of a closure, and the coarsest dtype of its differentiable results (None without such results)."""

    loss: Any
    coarsest: torch.dtype | None


class _BackwardCapture(TorchFunctionMode):
    """Redirect calls of `Tensor.backward` in the current thread to a function, and count these calls."""

    def __init__(self, on_backward: BackwardCall) -> None:
        super().__init__()
        self._on_backward, self.backward_calls = on_backward, 0
        self.coarsest: torch.dtype | None = None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.backward:
            self.backward_calls += 1
            self._on_backward(args[0], _arguments(args[1:], kwargs or {}))
            return None
        with nullcontext() if torch.is_grad_enabled() else without_tangents():
            result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and result.requires_grad and result.is_floating_point():
            self.coarsest = coarser(self.coarsest, result.dtype)
        return result


def coarser(a: torch.dtype | None, b: torch.dtype) -> torch.dtype:
    """Return the dtype, `a` or `b`, with the larger rounding error, as a real dtype.

    >>> coarser(torch.float16, torch.float32), coarser(None, torch.float64)
    (torch.float16, torch.float64)
    """
    return b if a is None or torch.finfo(b).eps > torch.finfo(a).eps else a


def _arguments(args: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return the non-default arguments of `Tensor.backward` by name."""
    named = dict(zip(("gradient", "retain_graph", "create_graph", "inputs"), args, strict=False)) | kwargs
    return {name: value for name, value in named.items() if value is not None and value is not False}


def evaluate(closure: Callable[[], Any], on_backward: BackwardCall, *, may_return: bool) -> Evaluation:
    """Call `closure` with gradients enabled and redirect its backward calls to `on_backward`.

    A closure that does not call backward must return a loss if `may_return` is True; the loss is passed to
    `on_backward`. If `may_return` is False, such a closure must return None and have no effect.

    Raises:
        CurvatureError: If the closure does not return the required loss or does not call backward.
    """
    with torch.enable_grad():
        with _BackwardCapture(on_backward) as capture:
            loss = closure()
        if loss is None and capture.backward_calls == 0 and not may_return:
            return Evaluation(None, None)
        check_loss("", loss)
        if capture.backward_calls == 0:
            if not may_return:
                raise CurvatureError("the closure given to step must call loss.backward(), got no call.")
            if not isinstance(loss, Tensor) or not loss.requires_grad:
                raise CurvatureError(
                    "the closure must call loss.backward() or return a loss that depends on the parameters, "
                    f"got {shown(loss)}."
                )
            on_backward(loss, {})
    return Evaluation(loss, capture.coarsest)


def check_loss(owner: str, loss: Any) -> None:
    """Raise `CurvatureError` unless `loss` is a single number."""
    if not _is_loss(loss):
        got = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else shown(loss)
        prefix = f"{owner}: " if owner else ""
        raise CurvatureError(f"{prefix}the closure must return the loss, a single number, got {got}.")


def _is_loss(loss: Any) -> bool:
    if isinstance(loss, Tensor):
        return loss.numel() == 1 and not loss.is_complex()
    return is_number(plain(loss))
