"""Checks of whether kernels support a tensor, and the rows of kernel arguments for supported tensors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor

from dashpot._torch_private import DEFAULT_TORCH_DISPATCH, DEFAULT_TORCH_FUNCTIONS, dispatch_keys
from dashpot.engine.native.cpp import FIRST_SLOT, STEP, WEIGHT
from dashpot.engine.native.interface import dtype_code, lazy_keys
from dashpot.engine.native.trace import Layout
from dashpot.engine.program import StorageFormat, compute_dtype
from dashpot.recipes.recipe import Recipe
from dashpot.stages.base import Slot

_MAX_INDEXED = 2**31  # stochastic rounding indexes elements in int32


@cache
def is_plain(kind: type) -> bool:
    """Check for `Tensor`, `Parameter`, or a subclass without its own `__torch_function__` or `__torch_dispatch__`."""
    if kind in (Tensor, torch.nn.Parameter):
        return True
    if not issubclass(kind, Tensor):
        return False
    function = getattr(kind.__torch_function__, "__func__", kind.__torch_function__)
    dispatch = getattr(kind, "__torch_dispatch__", None)
    return function in DEFAULT_TORCH_FUNCTIONS and dispatch is DEFAULT_TORCH_DISPATCH


def unsupported_reason(
    recipe: Recipe, storage: StorageFormat, p: Tensor, g: Tensor, state: Mapping[str, Any]
) -> str | None:
    """Return the reason why kernels do not support a parameter, or None if they support it."""
    checks = (
        (p.numel() == 0, "no elements"),
        (not is_plain(type(p)), f"tensor subclass {type(p).__name__}"),
        (not is_plain(type(g)), f"gradient of tensor subclass {type(g).__name__}"),
        (p.device.type != "cpu", f"on {p.device}"),
        (p.is_inference(), "inference tensor"),
        (not _is_dense(p) or p.is_conj() or p.is_neg(), "not dense in memory"),
        (storage.is_stochastic and p.numel() >= _MAX_INDEXED, "2^31 elements or more"),
    )
    reason = next((text for fails, text in checks if fails), None)
    mismatched = (slot.key for slot in storage.slots(recipe) if not _is_usable(slot, state[slot.key], p))
    return reason or next((f"state {key!r} differs in type or memory order" for key in mismatched), None)


def _is_usable(slot: Slot, value: Any, p: Tensor) -> bool:
    """Check that a kernel can update `value` in place as a slot of `p`."""
    if type(value) is not Tensor or value.device != p.device or value.layout != torch.strided or value.is_inference():
        return False
    if slot.shape == "per_tensor":
        return value.dim() == 0 and value.is_floating_point()
    alike = value.is_complex() if p.is_complex() else value.is_floating_point()
    lazy = value.is_conj() or value.is_neg()
    return alike and not lazy and value.shape == p.shape and _order(value) == _order(p)


def _order(x: Tensor) -> list[int]:
    """Return the strides of all dimensions with more than one element. Strides of other dimensions are arbitrary."""
    return [stride for stride, size in zip(x.stride(), x.shape, strict=True) if size != 1]


def _is_dense(x: Tensor) -> bool:
    """Check that the elements fill one contiguous span of memory, in any order."""
    expected = 1
    for stride, size in sorted(zip(x.stride(), x.shape, strict=True)):
        if size == 1:
            continue
        if stride != expected:
            return False
        expected *= size
    return True


def kernel_layout(recipe: Recipe, storage: StorageFormat, p: Tensor, g: Tensor, state: Mapping[str, Any]) -> Layout:
    """Return the dtypes for which the kernel of a parameter is specialized."""
    slots = tuple((slot.key, _real(state[slot.key].dtype)) for slot in storage.slots(recipe))
    return Layout(compute_dtype(p.dtype), _real(p.dtype), _real(g.dtype), slots)


def _real(dtype: torch.dtype) -> torch.dtype:
    return dtype.to_real() if dtype.is_complex else dtype


def kernel_row(rng_stream: int, p: Tensor, step: Tensor, slots: Iterable[Tensor]) -> list[int]:
    """Return a row of kernel arguments: number of real elements, index of the scalar row, random stream, addresses."""
    row = [0] * FIRST_SLOT
    row[0] = p.numel() * (2 if p.is_complex() else 1)
    row[2], row[WEIGHT], row[STEP] = rng_stream, p.data_ptr(), step.data_ptr()
    return row + [value.data_ptr() for value in slots]


def signature_of(p: Tensor, g: Tensor, count: Tensor, slots: Mapping[Slot, Tensor]) -> list[int]:
    """Return the types, dtypes, dispatch keys, sizes and strides to validate, in the order defined in `tables.h`."""
    signature: list[int] = []
    for x in (p, g, count, *slots.values()):
        signature += id(type(x)), dispatch_keys(x), dtype_code(x.dtype)
    signature[4] &= ~lazy_keys()  # lazy gradients are copied
    singles = [slot.shape == "per_tensor" for slot in slots]
    return [*signature, *singles, p.dim(), *p.shape, *p.stride()]
