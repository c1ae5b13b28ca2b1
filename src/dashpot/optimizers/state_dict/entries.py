"""Validation and conversion of the saved state of one parameter."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from dashpot.engine.program import COMPENSATION, compute_dtype
from dashpot.errors import ArgumentError
from dashpot.optimizers.state_dict.counts import as_number, checked_count, is_dense, short
from dashpot.optimizers.state_dict.plain import plain_data
from dashpot.optimizers.state_dict.slots import Slots, is_known_key
from dashpot.stages.base import Slot

_REAL = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
_COMPLEX = (torch.complex128, torch.complex64, torch.complex32)


class Target(NamedTuple):
    """The parameter for which saved state is loaded.

    Attributes:
        owner: Class name of the optimizer, for messages.
        name: Description of the parameter, for messages.
        p: The parameter.
        counts_on_device: Whether the step count is stored on the parameter's device (`capturable`).
    """

    owner: str
    name: str
    p: Tensor
    counts_on_device: bool


def convert_entry(target: Target, entry: Any, slots: Slots) -> dict[str, Any]:
    """Convert the saved state of one parameter to a new dict.

    Counts and per-tensor slots may be numbers or tensors with one element, and are converted to 0-d tensors.
    Elementwise slots keep their dtype, and are converted to the device and memory format of the parameter. Other keys
    are kept unchanged, as in torch.

    Args:
        target: The parameter for which the state is loaded.
        entry: The saved state of the parameter.
        slots: The slots that the state of the parameter can contain.

    Raises:
        ArgumentError: If the entry is malformed or belongs to a different method.
    """
    if not isinstance(entry, Mapping):
        raise ArgumentError(f"{target.owner}: the saved state of {target.name} must be a dict, got {short(entry)}.")
    entry = {key: value for key, value in entry.items() if not _is_absent(key, value, slots)}
    _check_method(target, entry, slots)
    return {key: _value(target, key, value, slots.known.get(key)) for key, value in entry.items()}


def _is_absent(key: Any, value: Any, slots: Slots) -> bool:
    """Return True if `value` is None and denotes missing state, as saved by torch.optim.SGD without momentum."""
    return value is None and key in slots.known and (key not in slots.needed or key == "momentum_buffer")


def _check_method(target: Target, entry: Mapping[Any, Any], slots: Slots) -> None:
    counted = slots.known.keys() - {"momentum_buffer", COMPENSATION}  # torch.optim.SGD does not count steps
    expected = slots.lasting | {"step"} if counted else slots.lasting
    missing = sorted(expected - entry.keys()) if entry else []
    extra = [key for key in entry if key != "step" and key not in slots.known and isinstance(entry[key], Tensor)]
    foreign = extra if missing else [key for key in extra if isinstance(key, str) and is_known_key(key)]
    if foreign:
        has, needs = ", ".join(sorted(map(str, entry))), ", ".join(sorted(slots.known)) or "no state"
        raise ArgumentError(
            f"{target.owner}: the saved state of {target.name} must have {needs}, got {has}, of a different method."
        )
    if missing:
        raise ArgumentError(f"{target.owner}: the saved state of {target.name} lacks {', '.join(missing)}.")


def _value(target: Target, key: Any, value: Any, slot: Slot | None) -> Any:
    if key == "step":
        return _step(target, value)
    if slot is None:
        return _moved(value, target.p) if isinstance(value, Tensor) else copy.deepcopy(plain_data(value))
    return _number(target, slot, value) if slot.shape == "per_tensor" else _elements(target, slot, value)


def _step(target: Target, value: Any) -> Tensor:
    """Return a step count as a 0-d float32 tensor, on the parameter's device if capturable and otherwise on the CPU."""
    device = target.p.device if target.counts_on_device else torch.device("cpu")
    if isinstance(value, Tensor) and value.device.type == "meta" and device.type == "meta":
        return torch.empty((), dtype=torch.float32, device=device)
    count = checked_count(target.owner, f"state 'step' of {target.name}", value)
    return torch.tensor(float(count), dtype=torch.float32, device=device)


def _number(target: Target, slot: Slot, value: Any) -> Tensor:
    if isinstance(value, Tensor) and value.dtype in _REAL and _is_usable(value, target.p):
        if value.numel() == 1 and value.dim() < 2:
            return _moved(value, target.p).reshape(())
        raise _wrong_shape(target, slot.key, value, ())
    number = as_number(value)
    try:
        number = None if number is None else float(number)
    except OverflowError:
        number = None
    if number is None:
        raise ArgumentError(
            f"{target.owner}: state {slot.key!r} of {target.name} must be a number or a one-element tensor, "
            f"got {short(value)}."
        )
    return torch.tensor(number, dtype=compute_dtype(target.p.dtype), device=target.p.device)


def _elements(target: Target, slot: Slot, value: Any) -> Tensor:
    p = target.p
    if is_lazy(p):
        raise ArgumentError(
            f"{target.owner}: {target.name} is uninitialized; run the model once before loading its state."
        )
    dtypes = (p.dtype,) if slot.key == COMPENSATION else _COMPLEX if p.is_complex() else _REAL
    if not isinstance(value, Tensor) or value.dtype not in dtypes or not _is_usable(value, p):
        kind = p.dtype if slot.key == COMPENSATION else "complex" if p.is_complex() else "floating-point"
        raise ArgumentError(
            f"{target.owner}: state {slot.key!r} of {target.name} must be a dense {kind} tensor, got {short(value)}."
        )
    if value.shape != p.shape:
        raise _wrong_shape(target, slot.key, value, tuple(p.shape))
    value = _moved(value, p)
    if type(p) in (Tensor, torch.nn.Parameter) and type(value) is Tensor and value.stride() != p.stride():
        return torch.empty_like(p, dtype=value.dtype, requires_grad=False).copy_(value)
    return value


def _is_usable(value: Tensor, p: Tensor) -> bool:
    has_no_values = value.device.type == "meta" and p.device.type != "meta"
    return is_dense(value) and not has_no_values


def _moved(value: Tensor, p: Tensor) -> Tensor:
    """Return a copy of `value` on the device of the parameter. A meta tensor remains on the meta device."""
    value = value.detach().clone()
    return value if value.device.type == "meta" else value.to(p.device)


def _wrong_shape(target: Target, key: str, value: Tensor, shape: tuple[int, ...]) -> ArgumentError:
    return ArgumentError(
        f"{target.owner}: state {key!r} of {target.name} must have shape {shape}, got {tuple(value.shape)}."
    )
