"""Context managers that prevent side effects of additional evaluations of a closure."""

from __future__ import annotations

import random
import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from dashpot._torch_private import tensor_hooks
from dashpot.curvature.accumulated import is_multiprocess
from dashpot.curvature.graph import leaves


class RngSnapshot:
    """Snapshot of the generator states of Python, NumPy and torch, on the CPU and the devices of the given tensors."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._devices = [d for d in dict.fromkeys(x.device for x in tensors) if d.type not in ("cpu", "meta")]
        self._cpu = torch.get_rng_state(), random.getstate(), np.random.get_state(legacy=False)
        self._others = [torch.get_device_module(d).get_rng_state(d) for d in self._devices]

    def restore(self) -> None:
        """Restore the generator states, so that another evaluation draws the same dropout masks."""
        torch.set_rng_state(self._cpu[0])
        random.setstate(self._cpu[1])
        np.random.set_state(self._cpu[2])
        for device, state in zip(self._devices, self._others, strict=True):
            torch.get_device_module(device).set_rng_state(state, device)


@contextmanager
def module_pre_hook(hook: Callable[[nn.Module, Any], None]) -> Iterator[None]:
    """Register a global forward pre-hook for the duration of the context."""
    handle = nn.modules.module.register_module_forward_pre_hook(hook)
    try:
        with warnings.catch_warnings():
            # Compiled modules may call the hook a second time, which is harmless.
            warnings.filterwarnings("ignore", r"Using `torch\.compile\(module\)` when there are global", UserWarning)
            yield
    finally:
        handle.remove()


@contextmanager
def without_compilation() -> Iterator[None]:
    """Run compiled models eagerly, since compiled graphs have no second derivatives.

    This also prevents recompilation because of the hooks of these context managers.
    """
    if "torch._dynamo" not in sys.modules:  # nothing is compiled, and the import takes seconds
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield


@contextmanager
def preserve_buffers() -> Iterator[None]:
    """Restore module buffers, such as the running statistics of BatchNorm, on exit."""
    kept: dict[tuple[nn.Module, str], tuple[Tensor, Tensor]] = {}
    seen: set[nn.Module] = set()
    thread = threading.get_ident()

    def before(module: nn.Module, _: Any) -> None:
        if module in seen or threading.get_ident() != thread:
            return
        # Include submodules, because a compiled module does not call the hooks of its submodules.
        for part in module.modules():
            seen.add(part)
            for name, buffer in part.named_buffers(recurse=False):
                if (part, name) not in kept and not is_lazy(buffer):
                    kept[part, name] = buffer, buffer.detach().clone()

    try:
        with module_pre_hook(before):
            yield
    finally:
        with torch.no_grad():
            for (module, name), (buffer, value) in kept.items():
                buffer.copy_(value)
                if getattr(module, name) is not buffer:
                    setattr(module, name, buffer)


@contextmanager
def preserve_gradients(params: Sequence[Tensor]) -> Iterator[Callable[[Tensor], set[Tensor]]]:
    """Clear the gradients of `params`, and restore them on exit.

    Yields:
        A function to call with a loss before its backward pass. It additionally saves and clears the gradients of all
        other leaves of the loss, and returns the set of all leaves.
    """
    mine = [(p, p.grad) for p in params]
    # Under DDP, gradients may be views of buckets, which every backward pass overwrites.
    shared = is_multiprocess(None)
    values = [p.grad.detach().clone() if shared and p.grad is not None else None for p in params]
    others: dict[Tensor, Tensor | None] = {}
    known = set(params)

    def keep_others(loss: Tensor) -> set[Tensor]:
        found = leaves(loss)
        for leaf in found - known - others.keys():
            others[leaf], leaf.grad = leaf.grad, None
        return found

    for p in params:
        p.grad = None
    try:
        yield keep_others
    finally:
        for p, grad in (*mine, *others.items()):
            p.grad = grad
        for (_, grad), value in zip(mine, values, strict=True):
            if grad is not None and value is not None and not torch.equal(grad, value):
                grad.detach().copy_(value)


@contextmanager
def disable_hooks(tensors: Iterable[Tensor]) -> Iterator[None]:
    """Disable user hooks on `tensors`, since such hooks are intended only for training gradients."""
    found = [hooks for x in tensors for hooks in tensor_hooks(x)]
    kept = [(hooks, dict(hooks)) for hooks in found]
    for hooks in found:  # in place: torch holds references to these dictionaries
        hooks.clear()
    try:
        yield
    finally:
        for hooks, items in kept:
            hooks.update(items)
