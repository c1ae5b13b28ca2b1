"""Leaving no trace: what an extra evaluation of a closure must find and leave as it was."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from dashpot._torch_private import tensor_hooks
from dashpot.curvature.accumulated import several_processes
from dashpot.curvature.graph import leaves

__all__ = ["RandomState", "before_every_module", "buffers_kept", "gradients_kept", "hooks_silenced"]


class RandomState:
    """The state of torch's generators on the CPU and on the devices of some tensors."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._devices = [d for d in dict.fromkeys(x.device for x in tensors) if d.type not in ("cpu", "meta")]
        self._cpu = torch.get_rng_state()
        self._others = [torch.get_device_module(d).get_rng_state(d) for d in self._devices]

    def restore(self) -> None:
        """Go back to this state, so that an evaluation draws the same dropout masks again."""
        torch.set_rng_state(self._cpu)
        for device, state in zip(self._devices, self._others, strict=True):
            torch.get_device_module(device).set_rng_state(state, device)


@contextmanager
def before_every_module(hook: Callable[[nn.Module, Any], None]) -> Iterator[None]:
    """Call a function with every module before its forward pass while this is open."""
    handle = nn.modules.module.register_module_forward_pre_hook(hook)
    try:
        with warnings.catch_warnings():
            # That it is called once more for a compiled module, which does no harm.
            warnings.filterwarnings("ignore", r"Using `torch\.compile\(module\)` when there are global", UserWarning)
            yield
    finally:
        handle.remove()


@contextmanager
def buffers_kept() -> Iterator[None]:
    """Put back what modules change in their buffers while this is open, as BatchNorm does in its running averages."""
    kept: dict[tuple[nn.Module, str], tuple[Tensor, Tensor]] = {}
    seen: set[nn.Module] = set()
    thread = threading.get_ident()

    def before(module: nn.Module, _: Any) -> None:
        if module in seen or threading.get_ident() != thread:
            return
        # With all that is inside: a compiled module calls no hooks of its parts.
        for part in module.modules():
            seen.add(part)
            for name, buffer in part.named_buffers(recurse=False):
                if (part, name) not in kept and not is_lazy(buffer):
                    kept[part, name] = buffer, buffer.detach().clone()

    try:
        with before_every_module(before):
            yield
    finally:
        with torch.no_grad():
            for (module, name), (buffer, value) in kept.items():
                buffer.copy_(value)
                if getattr(module, name) is not buffer:
                    setattr(module, name, buffer)


@contextmanager
def gradients_kept(params: Sequence[Tensor]) -> Iterator[Callable[[Tensor], set[Tensor]]]:
    """Clear the gradients of `params` while this is open and put them back.

    Gives a function to call with a loss before its backward pass: it keeps the gradients of the loss's other leaves,
    and returns all of them.
    """
    mine = [(p, p.grad) for p in params]
    # Under DDP their memory may be that of its buckets, which every backward pass writes to.
    shared = several_processes(None)
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
def hooks_silenced(tensors: Iterable[Tensor]) -> Iterator[None]:
    """No hook that a user put on one of these tensors runs while this is open: they are for training's gradients."""
    found = [hooks for x in tensors for hooks in tensor_hooks(x)]
    kept = [(hooks, dict(hooks)) for hooks in found]
    for hooks in found:  # the very dictionaries, which torch holds as well
        hooks.clear()
    try:
        yield
    finally:
        for hooks, items in kept:
            hooks.update(items)
