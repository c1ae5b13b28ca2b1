"""All private names of torch that dashpot uses, each with its purpose and its fallback.

Other modules import these names from here, so that a change in torch is handled in a single place. If torch removes a
name that has no fallback, importing this module or a test fails.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

# Base class of all batch and instance norms, for parameter roles. It has existed since torch 0.4. No fallback.
from torch.nn.modules.batchnorm import _NormBase as NormBase

# Hooks on the steps of all optimizers, which determine whether `step` runs inside torch's wrapper. No fallback.
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks

__all__ = [
    "DEFAULT_TORCH_DISPATCH",
    "DEFAULT_TORCH_FUNCTIONS",
    "EXTENSION_FILE",
    "NormBase",
    "autograd_function",
    "default_store",
    "disable_torch_function",
    "dispatch_keys",
    "foreach_add_",
    "foreach_copy_",
    "foreach_lerp_",
    "foreach_norm",
    "has_step_hooks",
    "impl_address",
    "is_dynamo_active",
    "is_forward_ad_active",
    "is_functorch_wrapped",
    "is_profiling",
    "local_tensor",
    "mark_static",
    "module_buffers",
    "neg_view",
    "preserve_version_counters",
    "supports_step_hooks",
    "tensor_hooks",
    "without_forward_ad",
    "write_count",
]

# ---- operations ------------------------------------------------------------------------------------------------------

# Operations on lists of tensors, which have no public equivalent. No fallback: `torch.optim` depends on them.
foreach_add_: Callable[..., None] = torch._foreach_add_  # pyright: ignore[reportPrivateImportUsage]
foreach_copy_: Callable[..., None] = torch._foreach_copy_  # pyright: ignore[reportPrivateImportUsage]
foreach_lerp_: Callable[..., None] = torch._foreach_lerp_  # pyright: ignore[reportPrivateImportUsage]
foreach_norm: Callable[..., tuple[Tensor, ...]] = torch._foreach_norm  # pyright: ignore[reportPrivateImportUsage]


def neg_view(x: Tensor) -> Tensor:
    """Return a view of `x` with the negative bit set, to determine the dispatch key of such views. No fallback."""
    return torch.ops.aten._neg_view(x)


# ---- tensors and modules ---------------------------------------------------------------------------------------------

# A tensor subclass with one of these `__torch_function__` implementations behaves like a plain tensor. torch has no
# public predicate. No fallback.
DEFAULT_TORCH_FUNCTIONS = (Tensor.__torch_function__.__func__, torch._C._disabled_torch_function_impl)
DEFAULT_TORCH_DISPATCH = torch._C._disabled_torch_dispatch_impl

# Function for writing to the memory of any tensor subclass. It is documented, but has no public name. No fallback.
disable_torch_function: Callable[[], AbstractContextManager[Any]] = torch._C.DisableTorchFunctionSubclass


def dispatch_keys(x: Tensor) -> int:
    """Return the dispatch keys of a tensor as a bit set. Kernels compare this bit set. No fallback."""
    return torch._C._dispatch_keys(x).raw_repr()


def impl_address(x: Tensor) -> int:
    """Return the address of the C++ `TensorImpl` of a tensor, from which kernels read metadata. No fallback."""
    return x._cdata


def write_count(x: Tensor) -> int:
    """Return the number of in-place writes to `x`, to detect stages that modify their input. No fallback."""
    return x._version


def local_tensor(x: Any, default: Any) -> Any:
    """Return the local tensor of a DTensor, or `default` for any other object.

    The public method `to_local` returns a new view of the shard at each call, but the engines require the same object.
    """
    return getattr(x, "_local_tensor", default)


def is_functorch_wrapped(x: Tensor) -> bool:
    """Check for a tensor inside `torch.func.vmap` or `grad`. Fallback: False, so that the caller reads the value."""
    functorch = getattr(torch._C, "_functorch", None)
    return functorch is not None and functorch.is_functorch_wrapped_tensor(x)


def tensor_hooks(x: Tensor) -> list[dict[int, Any]]:
    """Return the nonempty dictionaries of hooks on a tensor. There is no public query. Fallback: an empty list."""
    names = ("_backward_hooks", "_post_accumulate_grad_hooks")
    return [hooks for name in names if (hooks := getattr(x, name, None))]


def module_buffers(module: nn.Module) -> dict[str, Tensor | None]:
    """Return a module's own buffers, including unset buffers, which `named_buffers` omits. No fallback."""
    return module._buffers


# ---- autograd --------------------------------------------------------------------------------------------------------


def autograd_function(node: Any) -> type[torch.autograd.Function] | None:
    """Return the `torch.autograd.Function` of a graph node, or None for other nodes. Fallback: None."""
    return getattr(node, "_forward_cls", None)


def is_forward_ad_active() -> bool:
    """Check whether code runs inside a level of forward-mode differentiation. Fallback: False."""
    return getattr(forward_ad, "_current_level", -1) >= 0


def without_forward_ad() -> AbstractContextManager[Any]:
    """Disable forward-mode tangents in a `with` block. Fallback: a no-op, so that tangents propagate."""
    switch = getattr(forward_ad, "_set_fwd_grad_enabled", None)
    return nullcontext() if switch is None else switch(False)


def preserve_version_counters(tensors: Sequence[Tensor]) -> AbstractContextManager[Any]:
    """Hide writes in a `with` block from autograd, as FSDP does. Fallback: a no-op, so that backward may raise."""
    preserve = getattr(torch.autograd, "_unsafe_preserve_version_counter", None)
    return nullcontext() if preserve is None else preserve(tuple(tensors))


# ---- optimizers, Dynamo, libraries -----------------------------------------------------------------------------------

# This flag is checked at every step. A public alternative would slow down steps of small models. No fallback.
is_profiling: Callable[[], bool] = torch.autograd._profiler_enabled  # pyright: ignore[reportPrivateImportUsage]


def supports_step_hooks(optimizer: object) -> bool:
    """Check for an initialized optimizer; wrappers that only forward calls have no hooks of their own."""
    return isinstance(optimizer, torch.optim.Optimizer) and hasattr(optimizer, "_optimizer_step_pre_hooks")


def has_step_hooks(optimizer: torch.optim.Optimizer) -> bool:
    """Check for step hooks that are registered for this optimizer or for all optimizers."""
    own = optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks
    return bool(own or _global_optimizer_pre_hooks or _global_optimizer_post_hooks)


def is_dynamo_active() -> bool:
    """Check whether Dynamo would trace a frame that starts now. Fallback: True, as a precaution."""
    frames = getattr(getattr(torch._C, "_dynamo", None), "eval_frame", None)
    callback = getattr(frames, "get_eval_frame_callback", None)
    return callback is None or callback() is not None


def mark_static(x: Tensor) -> None:
    """Exclude the sizes of `x` from dynamic shapes. torch documents this function under this path. No fallback."""
    torch._dynamo.mark_static(x)


def default_store() -> Any:
    """Return the key-value store of the default process group. No fallback."""
    return torch.distributed.distributed_c10d._get_default_store()


# The shared library of torch, used to find the OpenMP runtime that torch loads. No fallback.
EXTENSION_FILE: str = torch._C.__file__
