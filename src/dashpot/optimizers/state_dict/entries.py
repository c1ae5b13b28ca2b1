"""The saved state of one parameter, checked and converted into what a step takes."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from dashpot.engine.program import COMPENSATION, compute_dtype
from dashpot.errors import ArgumentError
from dashpot.optimizers.state_dict.counts import checked_count, is_dense, one_number, short
from dashpot.optimizers.state_dict.plain import plain_data
from dashpot.optimizers.state_dict.slots import Slots, is_of_some_method
from dashpot.stages.base import Slot

__all__ = ["Place", "converted"]

_REAL = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
_COMPLEX = (torch.complex128, torch.complex64, torch.complex32)


class Place(NamedTuple):
    """Where an entry goes: the parameter, what messages call it, and whether its steps are counted on its device."""

    owner: str
    name: str
    p: Tensor
    counts_on_device: bool


def converted(place: Place, entry: Any, slots: Slots) -> dict[str, Any]:
    """A new dictionary with the state of one parameter.

    Counts and per-tensor slots may be numbers or tensors of one element, and become 0-d tensors. Elementwise slots keep
    their dtype and get the parameter's device and order in memory. Other keys are kept as they are, as torch keeps
    them. Raises `ArgumentError` for state of another method or in another form.
    """
    if not isinstance(entry, Mapping):
        raise ArgumentError(f"{place.owner}: the saved state of {place.name} must be a dict, got {short(entry)}.")
    entry = {key: value for key, value in entry.items() if not _stands_for_nothing(key, value, slots)}
    _check_method(place, entry, slots)
    return {key: _value(place, key, value, slots.known.get(key)) for key, value in entry.items()}


def _stands_for_nothing(key: Any, value: Any, slots: Slots) -> bool:
    """True for a None that says that there is no such state: torch.optim.SGD wrote it without momentum."""
    return value is None and key in slots.known and (key not in slots.needed or key == "momentum_buffer")


def _check_method(place: Place, entry: Mapping[Any, Any], slots: Slots) -> None:
    counted = slots.known.keys() - {"momentum_buffer", COMPENSATION}  # torch.optim.SGD counts no steps
    expected = slots.lasting | {"step"} if counted else slots.lasting
    missing = sorted(expected - entry.keys()) if entry else []
    extra = [key for key in entry if key != "step" and key not in slots.known and isinstance(entry[key], Tensor)]
    strange = extra if missing else [key for key in extra if isinstance(key, str) and is_of_some_method(key)]
    if strange:
        has, needs = ", ".join(sorted(map(str, entry))), ", ".join(sorted(slots.known)) or "no state"
        raise ArgumentError(f"{place.owner}: {place.name} was saved with {has}, not {needs}: state of another method.")
    if missing:
        raise ArgumentError(f"{place.owner}: the saved state of {place.name} has no {', '.join(missing)}.")


def _value(place: Place, key: Any, value: Any, slot: Slot | None) -> Any:
    if key == "step":
        return _step(place, value)
    if slot is None:
        return _moved(value, place.p) if isinstance(value, Tensor) else copy.deepcopy(plain_data(value))
    return _number(place, slot, value) if slot.shape == "per_tensor" else _elements(place, slot, value)


def _step(place: Place, value: Any) -> Tensor:
    """A step count as torch keeps it: a 0-d float32 tensor, on the CPU or, where it is capturable, on the device."""
    device = place.p.device if place.counts_on_device else torch.device("cpu")
    if isinstance(value, Tensor) and value.device.type == "meta" and device.type == "meta":
        return torch.empty((), dtype=torch.float32, device=device)
    count = checked_count(place.owner, f"state 'step' of {place.name}", value)
    return torch.tensor(float(count), dtype=torch.float32, device=device)


def _number(place: Place, slot: Slot, value: Any) -> Tensor:
    if isinstance(value, Tensor) and value.dtype in _REAL and _is_usable(value, place.p):
        if value.numel() == 1 and value.dim() < 2:
            return _moved(value, place.p).reshape(())
        raise _wrong_shape(place, slot.key, value, ())
    number = one_number(value)
    try:
        number = None if number is None else float(number)
    except OverflowError:
        number = None
    if number is None:
        raise ArgumentError(
            f"{place.owner}: state {slot.key!r} of {place.name} must be a number or a tensor of one, "
            f"got {short(value)}."
        )
    return torch.tensor(number, dtype=compute_dtype(place.p.dtype), device=place.p.device)


def _elements(place: Place, slot: Slot, value: Any) -> Tensor:
    p = place.p
    if is_lazy(p):
        raise ArgumentError(
            f"{place.owner}: {place.name} is uninitialized; run the model once before loading state for it."
        )
    dtypes = (p.dtype,) if slot.key == COMPENSATION else _COMPLEX if p.is_complex() else _REAL
    if not isinstance(value, Tensor) or value.dtype not in dtypes or not _is_usable(value, p):
        kind = p.dtype if slot.key == COMPENSATION else "complex" if p.is_complex() else "floating-point"
        raise ArgumentError(
            f"{place.owner}: state {slot.key!r} of {place.name} must be a dense {kind} tensor, got {short(value)}."
        )
    if value.shape != p.shape:
        raise _wrong_shape(place, slot.key, value, tuple(p.shape))
    value = _moved(value, p)
    if type(p) in (Tensor, torch.nn.Parameter) and type(value) is Tensor and value.stride() != p.stride():
        return torch.empty_like(p, dtype=value.dtype, requires_grad=False).copy_(value)
    return value


def _is_usable(value: Tensor, p: Tensor) -> bool:
    elsewhere = value.device.type == "meta" and p.device.type != "meta"
    return is_dense(value) and not elsewhere


def _moved(value: Tensor, p: Tensor) -> Tensor:
    """A copy on the parameter's device; a tensor without data, which no device takes, stays where it is."""
    value = value.detach().clone()
    return value if value.device.type == "meta" else value.to(p.device)


def _wrong_shape(place: Place, key: str, value: Tensor, shape: tuple[int, ...]) -> ArgumentError:
    return ArgumentError(
        f"{place.owner}: state {key!r} of {place.name} must have the shape {shape}, got {tuple(value.shape)}."
    )
