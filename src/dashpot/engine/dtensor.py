"""Sharded parameters (DTensor), such as those created by FSDP2's `fully_shard`.

The engines only process local shards, which are plain tensors. Reductions over whole tensors are in `sharding.py`.
Importing `torch.distributed.tensor` is slow, so this module does not import it and only uses it if it is already
imported, which is always the case if a DTensor exists.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from dashpot._torch_private import local_tensor
from dashpot.errors import ArgumentError


def is_dtensor(x: Any) -> bool:
    """Check whether `x` is a DTensor."""
    return issubclass(type(x), _dtensor())


def _dtensor() -> type | tuple[()]:
    module = sys.modules.get("torch.distributed.tensor")
    return getattr(module, "DTensor", ())  # missing while the module is being imported


def has_dtensor(tensors: Sequence[Tensor]) -> bool:
    """Check for DTensors. For speed at every step, each distinct type is checked only once."""
    kind = _dtensor()
    return kind != () and any(issubclass(its, kind) for its in set(map(type, tensors)))


def local(x: Any) -> Any:
    """Return the local shard of a DTensor, sharing its memory. Return any other object unchanged."""
    if not is_dtensor(x):
        return x
    shard = local_tensor(x, None)
    shard = x.to_local() if shard is None else shard
    return shard.wait() if hasattr(shard, "wait") else shard


def to_local(owner: str, params: list[Tensor], grads: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Return the local shards of parameters and gradients, or the given lists if no parameter is a DTensor.

    Gradients with a `Partial` placement are reduced first.

    Raises:
        ArgumentError: If a gradient is not sharded like its parameter, or if the step is differentiable.
    """
    if not has_dtensor(params):
        return params, grads
    if torch.is_grad_enabled():
        raise ArgumentError(f"{owner}: differentiable=True requires plain tensors, got a DTensor.")
    return [local(p) for p in params], [_local_grad(owner, p, g) for p, g in zip(params, grads, strict=True)]


def _local_grad(owner: str, p: Any, grad: Any) -> Tensor:
    if not is_dtensor(p):
        return grad
    if is_dtensor(grad):
        if any(how.is_partial() for how in p.placements):
            raise ArgumentError(f"{owner}: parameters must be sharded or replicated, got placements {p.placements}.")
        if grad.device_mesh == p.device_mesh:
            if grad.placements == p.placements:
                return local(grad)
            pairs = zip(p.placements, grad.placements, strict=True)
            if all(its.is_partial() or its == own for own, its in pairs) and grad.shape == p.shape:
                return local(grad.redistribute(placements=p.placements))
    raise _sharding_error(owner, p, grad)


def _sharding_error(owner: str, p: Any, grad: Any) -> ArgumentError:
    return ArgumentError(
        f"{owner}: a gradient must be sharded like its parameter of shape {tuple(p.shape)}, {_describe(p)}, "
        f"got {_describe(grad)}."
    )


def _describe(x: Any) -> str:
    return f"{x.placements} on {x.device_mesh}" if is_dtensor(x) else "a plain tensor"


def reject_dtensors(owner: str, params: Sequence[Tensor]) -> None:
    """Raise `ArgumentError` for any DTensor, because steps captured in a CUDA graph do not support DTensors."""
    if has_dtensor(params):
        raise ArgumentError(f"{owner}: capturable=True requires plain tensors, got a DTensor.")


class LocalState(MutableMapping[str, Any]):
    """View of a DTensor's optimizer state that returns the local shard of each value.

    Assignments are forwarded to the original state.
    """

    def __init__(self, state: dict[str, Any]) -> None:
        self._state = state

    def __getitem__(self, key: str) -> Any:
        return local(self._state[key])

    def __setitem__(self, key: str, value: Any) -> None:
        self._state[key] = value

    def __delitem__(self, key: str) -> None:
        del self._state[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._state)

    def __len__(self) -> int:
        return len(self._state)


def local_states(params: Sequence[Tensor], states: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the states of parameters. In the states of DTensors, the values are local shards."""
    pairs = zip(params, states, strict=True)
    return [cast(dict[str, Any], LocalState(state)) if is_dtensor(p) else state for p, state in pairs]


def increment_versions(params: Sequence[Tensor]) -> None:
    """Increment the version counters of DTensors after their shards were written in place."""
    if has_dtensor(params):
        torch.autograd.graph.increment_version([p for p in params if is_dtensor(p)])


def check_sharding(owner: str, p: Any, state: Mapping[str, Any]) -> None:
    """Raise `ArgumentError` if a plain parameter has a sharded gradient, or if the sharding of the state differs."""
    if not has_dtensor([p, p.grad, *state.values()]):
        return
    if is_dtensor(p.grad) and not is_dtensor(p):
        raise _sharding_error(owner, p, p.grad)
    check_state_sharding(owner, p, state)


def check_state_sharding(owner: str, p: Any, state: Mapping[str, Any]) -> None:
    """Raise `ArgumentError` if elementwise state, which may have been loaded, is not sharded like its parameter."""
    for key, value in state.items():
        if not isinstance(value, Tensor) or not (is_dtensor(value) or (is_dtensor(p) and value.dim() > 0)):
            continue
        if not (is_dtensor(p) and is_dtensor(value) and _placement(p) == _placement(value)):
            raise ArgumentError(
                f"{owner}: state {key!r} must be sharded like its parameter of shape {tuple(p.shape)}, {_describe(p)}, "
                f"got {_describe(value)}; use torch.distributed.checkpoint.state_dict.set_optimizer_state_dict."
            )


def _placement(x: Any) -> tuple[Any, Any]:
    return x.device_mesh, x.placements
