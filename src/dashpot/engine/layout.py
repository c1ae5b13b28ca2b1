"""Which tensors a kernel can take, and where they lie in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dashpot.engine.native.cpp import FIRST_SLOT, GRADIENT, WEIGHT, columns
from dashpot.engine.native.trace import Layout
from dashpot.engine.program import Storage, compute_dtype
from dashpot.recipe import Recipe
from dashpot.stages.base import Slot

__all__ = ["rows_of", "sorted_out"]

_PLAIN = (Tensor, torch.nn.Parameter)
_MOST_NUMBERED = 2**31  # elements are numbered in int32 where rounding draws

Groups = dict[tuple[Storage, Layout], list[int]]


def sorted_out(
    recipe: Recipe,
    storages: Sequence[Storage],
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    states: Sequence[Mapping[str, Any]],
    refused: Mapping[int, str],
) -> tuple[Groups, dict[int, str]]:
    """(positions that share a kernel, by storage and layout; the reason why not, by position, for the others).

    `refused` are reasons that are known already.
    """
    groups: Groups = {}
    others: dict[int, str] = {}
    for i, (storage, p, g, state) in enumerate(zip(storages, params, grads, states, strict=True)):
        reason = refused.get(i) or _unfit(recipe, storage, p, g, state)
        if reason is not None:
            others[i] = reason
            continue
        slots = tuple((slot.key, _real(state[slot.key].dtype)) for slot in storage.slots(recipe))
        layout = Layout(compute_dtype(p.dtype), _real(p.dtype), _real(g.dtype), slots)
        groups.setdefault((storage, layout), []).append(i)
    for i in _overlapping(groups, params, grads, states):
        others.setdefault(i, "it shares memory with another tensor")
    return {key: kept for key, at in groups.items() if (kept := [i for i in at if i not in others])}, others


def _unfit(recipe: Recipe, storage: Storage, p: Tensor, g: Tensor, state: Mapping[str, Any]) -> str | None:
    """Why a kernel cannot take a parameter, or None."""
    slots = storage.slots(recipe)
    checks = (
        (p.numel() == 0, "it has no elements"),
        (type(p) not in _PLAIN, f"it is a {type(p).__name__}"),
        (type(g) not in _PLAIN, f"its gradient is a {type(g).__name__}"),
        (p.device.type != "cpu", f"it is on {p.device}"),
        (p.is_inference(), "it was made in inference mode"),
        (not _dense(p) or p.is_conj() or p.is_neg(), "its elements are not dense in memory"),
        (storage.draws and p.numel() >= _MOST_NUMBERED, "it has 2^31 elements or more"),
    )
    reason = next((text for fails, text in checks if fails), None)
    strange = (slot.key for slot in slots if not _usable(slot, state[slot.key], p))
    return reason or next((f"its state {key!r} is of another kind or order in memory" for key in strange), None)


def _usable(slot: Slot, value: Any, p: Tensor) -> bool:
    """True where a kernel can keep a slot in `value`."""
    if type(value) is not Tensor or value.device != p.device or value.layout != torch.strided:
        return False
    if slot.shape == "per_tensor":
        return value.numel() == 1 and value.is_floating_point()
    alike = value.is_complex() if p.is_complex() else value.is_floating_point()
    return alike and value.shape == p.shape and value.stride() == p.stride()


def _dense(x: Tensor) -> bool:
    """True where the elements fill a stretch of memory, in whatever order."""
    expected = 1
    for stride, size in sorted(zip(x.stride(), x.shape, strict=True)):
        if size == 1:
            continue
        if stride != expected:
            return False
        expected *= size
    return True


def _overlapping(
    groups: Groups, params: Sequence[Tensor], grads: Sequence[Tensor], states: Sequence[Mapping[str, Any]]
) -> set[int]:
    """Positions whose weight or state, which are written, shares memory with something of another position, or whose
    gradient is part of what is written."""
    written: list[tuple[int, int, int]] = []
    read: list[tuple[int, int, int]] = []
    for (_, layout), positions in groups.items():
        for i in positions:
            tensors = [params[i], *(states[i][key] for key, _ in layout.slots)]
            written += ((*_stretch(x), i) for x in tensors)
            read.append((*_stretch(grads[i]), i))
    taken = {i for positions in groups.values() for i in positions}
    rest = ((i, p) for i, p in enumerate(params) if i not in taken and type(p) in _PLAIN and p.device.type == "cpu")
    written += ((*_stretch(p), i) for i, p in rest if p.numel())
    return _clashes(written, read)


def _stretch(x: Tensor) -> tuple[int, int]:
    """(start, end) of the memory in which a tensor's elements lie."""
    reach = sum((size - 1) * stride for size, stride in zip(x.shape, x.stride(), strict=True)) + 1
    return x.data_ptr(), x.data_ptr() + reach * x.element_size()


def _clashes(written: list[tuple[int, int, int]], read: list[tuple[int, int, int]]) -> set[int]:
    """The owners of stretches of memory, each (start, end, owner), that meet where one of the two is written."""
    found: set[int] = set()
    events = sorted([(*item, True) for item in written] + [(*item, False) for item in read])
    open_written, open_read = (0, -1), (0, -1)  # (end, owner) of the stretch that reaches farthest so far
    for start, end, owner, writes in events:
        for (reach, other), matters in ((open_written, True), (open_read, writes)):
            if matters and start < reach:
                found |= {owner, other}
        if writes and end > open_written[0]:
            open_written = end, owner
        if not writes and end > open_read[0]:
            open_read = end, owner
    return found


def rows_of(
    positions: Sequence[int],
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    states: Sequence[Mapping[str, Any]],
    slots: Sequence[str],
    ordinals: Sequence[int],
) -> np.ndarray:
    """The rows of a kernel's table: numbers of reals, row of scalars, number of the tensor, then the addresses."""
    rows = np.zeros((len(positions), columns(slots)), dtype=np.int64)
    for row, i in zip(rows, positions, strict=True):
        p = params[i]
        row[0] = p.numel() * (2 if p.is_complex() else 1)
        row[2], row[WEIGHT], row[GRADIENT] = ordinals[i], p.data_ptr(), grads[i].data_ptr()
        row[FIRST_SLOT:] = [states[i][key].data_ptr() for key in slots]
    return rows


def _real(dtype: torch.dtype) -> torch.dtype:
    return dtype.to_real() if dtype.is_complex else dtype
