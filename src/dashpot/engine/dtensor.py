"""Parameters that several processes hold in pieces: DTensors, as FSDP2's `fully_shard` makes them.

The engines only ever see the piece that is here, a plain tensor. What is said about whole tensors is in `division`.
torch.distributed.tensor takes long to import. Who has a DTensor has imported it, so it is only looked up.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from dashpot._torch_private import local_tensor
from dashpot.errors import ArgumentError

__all__ = [
    "LocalState",
    "any_dtensor",
    "check_division",
    "check_state_division",
    "is_dtensor",
    "local",
    "local_states",
    "localized",
    "mark_written",
    "refuse_dtensors",
]


def is_dtensor(x: Any) -> bool:
    """True for a DTensor."""
    return issubclass(type(x), _dtensor())


def _dtensor() -> type | tuple[()]:
    module = sys.modules.get("torch.distributed.tensor")
    return getattr(module, "DTensor", ())  # missing while the module is being imported


def any_dtensor(tensors: Sequence[Tensor]) -> bool:
    """True where one of the tensors is a DTensor; asked at every step, and so of each type once."""
    kind = _dtensor()
    return kind != () and any(issubclass(its, kind) for its in set(map(type, tensors)))


def local(x: Any) -> Any:
    """The piece of a DTensor that is here, sharing its memory; anything else as it is."""
    if not is_dtensor(x):
        return x
    piece = local_tensor(x, None)
    piece = x.to_local() if piece is None else piece
    return piece.wait() if hasattr(piece, "wait") else piece


def localized(owner: str, params: list[Tensor], grads: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """(pieces of the parameters, pieces of their gradients); the same lists where no parameter is a DTensor.

    A gradient that is still to be summed over processes (`Partial`) is summed. Raises `ArgumentError` where a gradient
    is divided in another way than its parameter.
    """
    if not any_dtensor(params):
        return params, grads
    if torch.is_grad_enabled():
        raise ArgumentError(f"{owner}: differentiable=True takes plain tensors, got a DTensor.")
    return [local(p) for p in params], [_piece(owner, p, g) for p, g in zip(params, grads, strict=True)]


def _piece(owner: str, p: Any, grad: Any) -> Tensor:
    if not is_dtensor(p):
        return grad
    if is_dtensor(grad):
        if any(how.is_partial() for how in p.placements):
            raise ArgumentError(f"{owner}: parameters must be sharded or replicated, got placements {p.placements}.")
        if grad.device_mesh == p.device_mesh:
            if grad.placements == p.placements:
                return local(grad)
            pairs = zip(p.placements, grad.placements, strict=True)
            if all(its.is_partial() or its == how for how, its in pairs) and grad.shape == p.shape:
                return local(grad.redistribute(placements=p.placements))
    raise _divided_otherwise(owner, p, grad)


def _divided_otherwise(owner: str, p: Any, grad: Any) -> ArgumentError:
    return ArgumentError(
        f"{owner}: a gradient must be divided as its parameter of shape {tuple(p.shape)}, {_division(p)}, "
        f"got {_division(grad)}."
    )


def _division(x: Any) -> str:
    return f"{x.placements} on {x.device_mesh}" if is_dtensor(x) else "a plain tensor"


def refuse_dtensors(owner: str, params: Sequence[Tensor]) -> None:
    """For steps that a graph records: `ArgumentError` for a DTensor."""
    if any_dtensor(params):
        raise ArgumentError(f"{owner}: capturable=True takes plain tensors, got a DTensor; leave it off.")


class LocalState(MutableMapping[str, Any]):
    """The state of a DTensor as the engines see it: the piece of each tensor that is here. Writes reach the state."""

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
    """The states of parameters as the engines see them."""
    pairs = zip(params, states, strict=True)
    return [cast(dict[str, Any], LocalState(state)) if is_dtensor(p) else state for p, state in pairs]


def mark_written(params: Sequence[Tensor]) -> None:
    """Tell autograd that DTensors have changed; it only sees what is done to their pieces."""
    if any_dtensor(params):
        torch.autograd.graph.increment_version([p for p in params if is_dtensor(p)])


def check_division(owner: str, p: Any, state: Mapping[str, Any]) -> None:
    """`ArgumentError` for a plain parameter's divided gradient, and for state that is not divided as its parameter."""
    if not any_dtensor([p, p.grad, *state.values()]):
        return
    if is_dtensor(p.grad) and not is_dtensor(p):
        raise _divided_otherwise(owner, p, p.grad)
    check_state_division(owner, p, state)


def check_state_division(owner: str, p: Any, state: Mapping[str, Any]) -> None:
    """`ArgumentError` for elementwise state, say from another run, that is not divided as its parameter."""
    for key, value in state.items():
        if not isinstance(value, Tensor) or not (is_dtensor(value) or (is_dtensor(p) and value.dim() > 0)):
            continue
        if not (is_dtensor(p) and is_dtensor(value) and _placed(p) == _placed(value)):
            raise ArgumentError(
                f"{owner}: state {key!r} must be divided as its parameter of shape {tuple(p.shape)}, {_division(p)}, "
                f"got {_division(value)}; torch.distributed.checkpoint.state_dict.set_optimizer_state_dict does that."
            )


def _placed(x: Any) -> tuple[Any, Any]:
    return x.device_mesh, x.placements
