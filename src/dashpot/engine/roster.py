"""The parameters of a group that step together: looked over once, after that only compared.

A kernel follows addresses and checks nothing, so everything it relies on is checked here: that tensors are plain, dense
and on the CPU, that weight and state lie in memory in the same order, and that no two of them overlap. The look is
repeated whenever a tensor, its address or its shape is another one than last time.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dashpot.engine.division import Division, Spread
from dashpot.engine.layout import rows_of, sorted_out
from dashpot.engine.native.cpp import GRADIENT
from dashpot.engine.native.kernel import Kernel, kernel_for, structure
from dashpot.engine.native.symbols import UntraceableError
from dashpot.engine.program import Storage
from dashpot.recipe import Recipe

__all__ = ["Roster", "Table", "step_count"]


def step_count(state: Mapping[str, Any]) -> int:
    """Steps taken by a parameter, from its state. Old torch checkpoints hold plain numbers; torch's SGD holds none."""
    return int(state["step"]) if "step" in state else int(any(isinstance(v, Tensor) for v in state.values()))


class Table:
    """The addresses of the tensors that one kernel takes, a row each; `positions` are their places in the roster. All
    are divided alike, or not at all."""

    def __init__(
        self, kernel: Kernel, positions: list[int], written: list[Tensor], rows: np.ndarray, spread: Spread | None
    ) -> None:
        self.kernel, self.written, self.rows, self.spread = kernel, written, rows, spread
        self.positions = np.array(positions)

    def elements(self) -> int:
        """Elements of all its tensors together."""
        return int(self.rows[:, 0].sum())


class Roster:
    """The parameters of a group that have gradients, ready for every engine.

    `tables` hold the tensors that kernels can take; `others` are the rest, by position, each with the reason. `steps`
    is the count of steps of every parameter; each parameter's own `state["step"]` is a view of its entry.
    """

    def __init__(
        self,
        recipe: Recipe,
        storages: Sequence[Storage],
        params: Sequence[Tensor],
        grads: Sequence[Tensor],
        states: Sequence[dict[str, Any]],
        counts: np.ndarray,
        ordinals: Sequence[int],
        division: Division,
        eager: str | None = None,
    ) -> None:
        self.division = division
        self.storages, self.ordinals = list(storages), list(ordinals)
        self._recipe, self._structure = recipe, structure(recipe)
        self._params, self.states = list(params), list(states)
        self.steps = torch.tensor(counts, dtype=torch.float32, device="cpu")
        for state, step in zip(states, self.steps.unbind(), strict=True):
            state["step"] = step
        self._getters = [_getter(storage, recipe) for storage in storages]
        self._held = self._slots(states)
        self.tables: list[Table] = []
        self.others: dict[int, str] = {}
        if eager is None:
            self._sort_out(grads)
        else:
            self.others = dict.fromkeys(range(len(params)), eager)
        self._native = sorted(chain.from_iterable(table.positions.tolist() for table in self.tables))
        self._watched = [x for table in self.tables for x in table.written]
        self._counts = _addresses([state["step"] for state in states])
        self._addresses = _addresses(self._watched)
        self._forms = _forms(self._selected(params), self._watched)
        self._grad_kinds = _kinds(self._selected(grads))
        self._grad_addresses = _addresses(self._selected(grads))
        self._written = _stretches(self._watched)
        self._copies: dict[int, Tensor] = {}
        self._find_copies(grads)

    # ---- comparing --------------------------------------------------------------------------------------------------

    def fits(self, recipe: Recipe, params: Sequence[Tensor], grads: Sequence[Tensor]) -> bool:
        """True where everything that the look found still holds, given that the states are the same dictionaries."""
        if not _same(params, self._params):
            return False
        if recipe is not self._recipe:
            if structure(recipe) != self._structure:
                return False
            self._recipe = recipe
        try:
            held = self._slots(self.states)
        except KeyError:
            return False
        return (
            _same(held, self._held)
            and _addresses([state["step"] for state in self.states]) == self._counts
            and _addresses(self._watched) == self._addresses
            and _forms(self._selected(params), self._watched) == self._forms
            and _kinds(self._selected(grads)) == self._grad_kinds
            and all(map(Tensor.is_same_size, self._selected(params), self._selected(grads)))
            and self._apart(self._selected(grads))
        )

    def _apart(self, grads: Sequence[Tensor]) -> bool:
        """False where a gradient, which may be a new tensor at each step, lies in what will be written, or nowhere."""
        addresses = _addresses(grads)
        if addresses != self._grad_addresses:
            self._grad_addresses = addresses
            starts, ends = self._written
            begin = np.array(addresses, dtype=np.int64)
            after = np.searchsorted(ends, begin, side="right")
            size = np.array([g.nbytes for g in grads], dtype=np.int64)
            return bool(begin.all()) and not np.any(starts[after] < begin + size)
        return True

    def _selected(self, values: Sequence[Any]) -> Sequence[Any]:
        return values if len(self._native) == len(values) else [values[i] for i in self._native]

    def _slots(self, states: Sequence[dict[str, Any]]) -> list[Any]:
        return list(chain.from_iterable(get(state) for get, state in zip(self._getters, states, strict=True)))

    # ---- looking ----------------------------------------------------------------------------------------------------

    def _sort_out(self, grads: Sequence[Tensor]) -> None:
        groups, self.others = sorted_out(
            self._recipe, self.storages, self._params, grads, self.states, self.division.refused
        )
        for (storage, layout), positions in groups.items():
            try:
                kernel = kernel_for(self._recipe, storage, layout)
            except UntraceableError as reason:
                self.others |= dict.fromkeys(positions, f"{reason} cannot be compiled")
                continue
            for spread, alike in self.division.parted(positions):
                rows = rows_of(alike, self._params, grads, self.states, kernel.slots, self.ordinals)
                self.tables.append(Table(kernel, alike, self._written_by(kernel, alike), rows, spread))

    def _written_by(self, kernel: Kernel, positions: Sequence[int]) -> list[Tensor]:
        slots = (self.states[i][key] for i in positions for key in kernel.slots)
        return [*(self._params[i] for i in positions), *slots]

    def _find_copies(self, grads: Sequence[Tensor]) -> None:
        """Gradients that lie in memory in another order than their weights are copied before each step."""
        for i in self._native:
            p, g = self._params[i], grads[i]
            if g.stride() != p.stride() or g.is_conj() or g.is_neg():
                self._copies[i] = torch.empty_like(p, requires_grad=False)

    def refresh(self, grads: Sequence[Tensor]) -> None:
        """Bring the tables up to date with this step's gradients."""
        addresses = np.zeros(len(grads), dtype=np.int64)
        addresses[self._native] = self._grad_addresses
        for i, copy in self._copies.items():
            addresses[i] = copy.copy_(grads[i]).data_ptr()
        for table in self.tables:
            table.rows[:, GRADIENT] = addresses[table.positions]


def _getter(storage: Storage, recipe: Recipe) -> operator.itemgetter[Any]:
    keys = ("step", *(slot.key for slot in storage.slots(recipe)))
    return operator.itemgetter(*keys) if len(keys) > 1 else operator.itemgetter("step", "step")  # a tuple in any case


def _same(a: Sequence[Any], b: Sequence[Any]) -> bool:
    return len(a) == len(b) and all(map(operator.is_, a, b))


def _addresses(tensors: Sequence[Tensor]) -> list[int]:
    return [t.data_ptr() for t in tensors]


def _stretches(tensors: Sequence[Tensor]) -> tuple[np.ndarray, np.ndarray]:
    """(starts, ends) of the memory of tensors that do not overlap, in order, with a last one beyond everything."""
    spans = sorted((t.data_ptr(), t.data_ptr() + t.nbytes) for t in tensors)
    beyond = np.iinfo(np.int64).max
    return np.array([a for a, _ in spans] + [beyond]), np.array([b for _, b in spans] + [beyond])


def _forms(weights: Sequence[Tensor], watched: Sequence[Tensor]) -> list[list[Any]]:
    """What `.data` may change at one address: how a weight is read, and the order of the elements."""
    flat = [x.is_contiguous() for x in watched]
    return [_dtypes(weights), flat, [] if all(flat) else [x.stride() for x in watched]]


def _dtypes(tensors: Sequence[Tensor]) -> list[torch.dtype]:
    return [x.dtype for x in tensors]


def _kinds(grads: Sequence[Tensor]) -> list[list[Any]]:
    """What may differ from one gradient to the next. Shapes and strides would be a tuple each, and a thousand new
    tuples start the garbage collector, so they are only asked for where they say more than this does."""
    layouts = [g.layout for g in grads]
    if layouts.count(torch.strided) < len(layouts):  # a sparse gradient has no strides
        return [layouts]
    flat = [g.is_contiguous() for g in grads]
    strides = [] if all(flat) else [g.stride() for g in grads]
    dtypes, lazy = _dtypes(grads), [g.is_neg() for g in grads]
    if any(dtype.is_complex for dtype in set(dtypes)):
        lazy += [g.is_conj() for g in grads]
    return [[type(g) for g in grads], dtypes, [g.numel() for g in grads], flat, strides, lazy]
