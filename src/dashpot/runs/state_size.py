"""Size of the state of optimizers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor


def state_bytes(optimizers: Iterable[Any]) -> int | None:
    """Return the bytes of all tensors in the states of optimizers; None if one of them has no attribute `state`.

    >>> import torch
    >>> w = torch.ones(3, requires_grad=True)
    >>> adam = torch.optim.Adam([w])
    >>> w.sum().backward()
    >>> adam.step()
    >>> state_bytes([adam])  # two moments of three numbers, and the number of steps
    28
    """
    sizes: dict[int, int] = {}
    for optimizer in optimizers:
        state = getattr(optimizer, "state", None)
        if not isinstance(state, Mapping):
            return None
        sizes |= {id(tensor): tensor.numel() * tensor.element_size() for tensor in _tensors(state)}
    return sum(sizes.values())


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)
