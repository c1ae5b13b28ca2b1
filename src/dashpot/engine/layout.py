"""Which tensors a kernel can take, and where they lie in memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dashpot._torch_private import DEFAULT_TORCH_DISPATCH, DEFAULT_TORCH_FUNCTIONS, dispatch_keys
from dashpot.engine.native.cpp import FIRST_SLOT, STEP, WEIGHT
from dashpot.engine.native.interface import dtype_code, lazy_keys
from dashpot.engine.native.trace import Layout
from dashpot.engine.program import StorageFormat, compute_dtype
from dashpot.recipes.recipe import Recipe
from dashpot.stages.base import Slot

__all__ = [
    "find_overlaps",
    "is_plain",
    "kernel_layout",
    "kernel_row",
    "memory_span",
    "signature_of",
    "unsupported_reason",
]

_MOST_NUMBERED = 2**31  # elements are numbered in int32 where rounding draws


@cache
def is_plain(kind: type) -> bool:
    """True for `Tensor`, `Parameter` and subclasses without a dispatch of their own."""
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
    """Why a kernel cannot take a parameter, or None."""
    checks = (
        (p.numel() == 0, "it has no elements"),
        (not is_plain(type(p)), f"it is a {type(p).__name__}"),
        (not is_plain(type(g)), f"its gradient is a {type(g).__name__}"),
        (p.device.type != "cpu", f"it is on {p.device}"),
        (p.is_inference(), "it was made in inference mode"),
        (not _is_dense(p) or p.is_conj() or p.is_neg(), "its elements are not dense in memory"),
        (storage.is_stochastic and p.numel() >= _MOST_NUMBERED, "it has 2^31 elements or more"),
    )
    reason = next((text for fails, text in checks if fails), None)
    strange = (slot.key for slot in storage.slots(recipe) if not _is_usable(slot, state[slot.key], p))
    return reason or next((f"its state {key!r} is of another kind or order in memory" for key in strange), None)


def _is_usable(slot: Slot, value: Any, p: Tensor) -> bool:
    """True where a kernel can keep a slot in `value`."""
    if type(value) is not Tensor or value.device != p.device or value.layout != torch.strided or value.is_inference():
        return False
    if slot.shape == "per_tensor":
        return value.dim() == 0 and value.is_floating_point()
    alike = value.is_complex() if p.is_complex() else value.is_floating_point()
    lazy = value.is_conj() or value.is_neg()
    return alike and not lazy and value.shape == p.shape and _order(value) == _order(p)


def _order(x: Tensor) -> list[int]:
    """The strides that say something: those of dimensions with more than one element."""
    return [stride for stride, size in zip(x.stride(), x.shape, strict=True) if size != 1]


def _is_dense(x: Tensor) -> bool:
    """True where the elements fill a stretch of memory, in whatever order."""
    expected = 1
    for stride, size in sorted(zip(x.stride(), x.shape, strict=True)):
        if size == 1:
            continue
        if stride != expected:
            return False
        expected *= size
    return True


def kernel_layout(recipe: Recipe, storage: StorageFormat, p: Tensor, g: Tensor, state: Mapping[str, Any]) -> Layout:
    """The dtypes of a parameter that a kernel can take."""
    slots = tuple((slot.key, _real(state[slot.key].dtype)) for slot in storage.slots(recipe))
    return Layout(compute_dtype(p.dtype), _real(p.dtype), _real(g.dtype), slots)


def _real(dtype: torch.dtype) -> torch.dtype:
    return dtype.to_real() if dtype.is_complex else dtype


def kernel_row(ordinal: int, p: Tensor, step: Tensor, slots: Iterable[Tensor]) -> list[int]:
    """The row of a kernel's table: number of reals, row of scalars, number of the tensor, then the addresses."""
    row = [0] * FIRST_SLOT
    row[0] = p.numel() * (2 if p.is_complex() else 1)
    row[2], row[WEIGHT], row[STEP] = ordinal, p.data_ptr(), step.data_ptr()
    return row + [value.data_ptr() for value in slots]


def signature_of(p: Tensor, g: Tensor, count: Tensor, slots: Mapping[Slot, Tensor]) -> list[int]:
    """What the look before a step compares a parameter with; tables.h has the order."""
    record: list[int] = []
    for x in (p, g, count, *slots.values()):
        record += id(type(x)), dispatch_keys(x), dtype_code(x.dtype)
    record[4] &= ~lazy_keys()  # lazy gradients are copied
    singles = [slot.shape == "per_tensor" for slot in slots]
    return [*record, *singles, p.dim(), *p.shape, *p.stride()]


def memory_span(x: Tensor) -> tuple[int, int]:
    """(start, end) of the memory in which a tensor's elements lie."""
    reach = sum((size - 1) * stride for size, stride in zip(x.shape, x.stride(), strict=True)) + 1
    return x.data_ptr(), x.data_ptr() + reach * x.element_size()


def find_overlaps(starts: np.ndarray, ends: np.ndarray, reach: np.ndarray, owners: np.ndarray) -> set[int]:
    """The owners of stretches of memory of which two overlap.

    All are in the order of `starts`; `reach` is the largest of the ends so far.
    """
    if not (starts[1:] < reach[:-1]).any():
        return set()
    found: set[int] = set()
    furthest, holder = -1, -1
    for start, end, owner in zip(starts.tolist(), ends.tolist(), owners.tolist(), strict=True):
        if start < furthest:
            found |= {owner, holder}
        if end > furthest:
            furthest, holder = end, owner
    return found
