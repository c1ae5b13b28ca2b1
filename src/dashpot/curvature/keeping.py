"""Leaving no trace: what an extra evaluation of a closure must find and leave as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["RandomState", "buffers_kept", "gradients_kept", "leaves"]


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
def buffers_kept() -> Iterator[None]:
    """Put back what modules change in their buffers while this is open, as BatchNorm does in its running averages."""
    kept: dict[int, tuple[Tensor, Tensor]] = {}

    def before(module: nn.Module, _: Any) -> None:
        for buffer in module.buffers(recurse=False):
            if id(buffer) not in kept:
                kept[id(buffer)] = buffer, buffer.detach().clone()

    handle = nn.modules.module.register_module_forward_pre_hook(before)
    try:
        yield
    finally:
        handle.remove()
        with torch.no_grad():
            for buffer, value in kept.values():
                buffer.copy_(value)


@contextmanager
def gradients_kept(params: Sequence[Tensor]) -> Iterator[Callable[[Tensor], None]]:
    """Clear the gradients of `params` while this is open and put them back.

    Gives a function to call with a loss before its backward pass: it keeps the gradients of the loss's other leaves.
    """
    mine = [(p, p.grad) for p in params]
    others: dict[Tensor, Tensor | None] = {}
    known = set(params)

    def keep_others(loss: Tensor) -> None:
        for leaf in leaves(loss) - known - others.keys():
            others[leaf] = None if leaf.grad is None else leaf.grad.clone()

    for p in params:
        p.grad = None
    try:
        yield keep_others
    finally:
        for p, grad in (*mine, *others.items()):
            p.grad = grad


def leaves(loss: Tensor) -> set[Tensor]:
    """The leaf tensors that a backward pass from `loss` would give a gradient."""
    found: set[Tensor] = set()
    seen: set[Any] = set()
    waiting = [loss.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        variable = getattr(node, "variable", None)
        if variable is not None:
            found.add(variable)
        waiting += [after for after, _ in node.next_functions]
    return found
