"""The parameters of an optimizer as kernels take them: looked over once, after that only compared.

A kernel follows addresses and checks nothing, so everything it relies on is checked here: that tensors are plain, dense
and on the CPU, that weight and state lie in memory in the same order, and that no two of them overlap. A parameter is
looked over when it first has a gradient, and again when one of its tensors, its form or its address has changed. No
tensor is held from one step to the next: its owner may drop it at any time.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from itertools import chain, count
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from dashpot.engine.group_step import GroupStep, Kind, Step
from dashpot.engine.layout import (
    find_overlaps,
    is_plain,
    kernel_layout,
    kernel_row,
    memory_span,
    signature_of,
    unsupported_reason,
)
from dashpot.engine.native.cpp import GRADIENT
from dashpot.engine.native.kernel import Kernel, kernel_for
from dashpot.engine.native.symbols import UntraceableError
from dashpot.engine.scalars import pack, to_buffer
from dashpot.engine.sharding import ShardSpec, shard_rng_stream

__all__ = ["KernelArgs", "TensorTable", "step_count"]

_CHANGED, _TO_COPY, _OVERLAPS = 1, 2, 3  # `Status` of tables.h
SHARED = "it shares memory with another tensor"


def step_count(state: Mapping[str, Any]) -> int:
    """Steps taken by a parameter, from its state. Old torch checkpoints hold plain numbers; torch's SGD holds none."""
    return int(state["step"]) if "step" in state else int(any(isinstance(v, Tensor) for v in state.values()))


class _Row(NamedTuple):
    """One parameter that a kernel takes: its row, what the look before a step compares, and what is written."""

    row: list[int]
    record: list[int]
    memory_spans: list[tuple[int, int]]


class PreparedGroup:
    """A table to be: what its parameters share, and the rows of all that were ever looked over for it.

    Args:
        keys: Of the state that the kernel writes: the step count, then the slots.
        width: Bytes of an element of a gradient.
    """

    def __init__(
        self,
        kernel: Kernel,
        active: tuple[bool, ...],
        keys: tuple[str, ...],
        spread: ShardSpec | None,
        width: int,
    ) -> None:
        self.kernel, self.active, self.keys, self.spread = kernel, active, keys, spread
        self.width = width
        self.version = 0
        """How often a row was put or dropped."""
        self._rows: dict[int, _Row] = {}  # by ordinal
        self._places: dict[int, int] | None = None
        self._arrays: tuple[np.ndarray, ...] = ()

    def put(self, ordinal: int, row: _Row) -> None:
        """Take in a parameter, or a new look at it."""
        self._rows[ordinal] = row
        self._places = None
        self.version += 1

    def drop(self, ordinal: int) -> None:
        """Forget a parameter that is elsewhere now."""
        del self._rows[ordinal]
        self._places = None
        self.version += 1

    def memory_spans(self) -> np.ndarray:
        """Of all its parameters."""
        spans = [span for row in self._rows.values() for span in row.memory_spans]
        return np.array(spans, dtype=np.int64).reshape(-1, 2)

    def chosen(self, ordinals: Sequence[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """(rows, places of the records, records, stretches) of some parameters."""
        if self._places is None:
            rows = list(self._rows.values())
            self._places = {ordinal: place for place, ordinal in enumerate(self._rows)}
            lengths = [0, *(len(row.record) for row in rows)]
            self._arrays = (
                np.array([row.row for row in rows], dtype=np.int64),
                np.cumsum(lengths[:-1], dtype=np.int64),
                np.array(list(chain.from_iterable(row.record for row in rows)), dtype=np.int64),
                np.array([row.memory_spans for row in rows], dtype=np.int64),
            )
        at = np.array(list(map(self._places.__getitem__, ordinals)))
        rows, offsets, records, memory_spans = self._arrays
        return rows[at], offsets[at], records, memory_spans[at]


class KernelArgs:
    """The tensors that one kernel takes in a step, a row each; `positions` are their places in the step's lists."""

    def __init__(
        self, home: PreparedGroup, positions: list[int], arrays: tuple[np.ndarray, ...], parts: np.ndarray
    ) -> None:
        self.kernel, self.active, self.spread = home.kernel, home.active, home.spread
        self.positions = np.array(positions)
        self.rows, self._offsets, self._records = arrays
        self.counts, self._status = np.zeros(len(positions)), np.zeros(len(positions), dtype=np.int8)
        arrays = self._offsets, self._records, self.rows, self.counts, self._status
        self._looker, self._addresses = home.kernel.check_function(), [array.ctypes.data for array in arrays]
        self._runner = home.kernel.step_function(home.active)
        self._home, self._at, self._get = home, positions, _getter(home.keys)
        self._parts, self._numbers = parts, sorted(set(parts.tolist()))
        self._odd = False

    def elements(self) -> int:
        """Elements of all its tensors together."""
        return int(self.rows[:, 0].sum())

    def of(self, values: Sequence[Any]) -> Sequence[Any]:
        """Those of a step's `values` that belong to its tensors."""
        return values if len(values) == len(self._at) else [values[i] for i in self._at]

    def parts(self, step: Step) -> list[GroupStep]:
        """The parts of a step that its tensors are in."""
        return [step.parts[number] for number in self._numbers]

    def look(self, step: Step, spans: tuple[int, int, int]) -> dict[int, int]:
        """Bring the gradients' addresses and the counts up to date; returns which positions do not fit, and why."""
        params, grads, states = self.of(step.params), self.of(step.grads), self.of(step.states)
        try:
            kept = list(chain.from_iterable(map(self._get, states)))
        except KeyError:
            missing = (not state.keys() >= set(self._home.keys) for state in states)
            return {i: _CHANGED for i, lacks in zip(self._at, missing, strict=True) if lacks}
        if strange := self._compared([*params, *grads, *kept], spans):
            return strange
        step.written[id(self)] = [*params, *kept]
        return {}

    def _compared(self, objects: list[Any], spans: tuple[int, int, int]) -> dict[int, int]:
        held = np.fromiter(objects, dtype=object, count=len(objects))
        rows, slots = len(self._at), len(self._home.keys) - 1
        strange = self._looker(rows, slots, held.ctypes.data, *self._addresses, self._home.width, *spans)
        self._odd = strange > 0
        found = zip(self._at, self._status.tolist(), strict=True) if strange else ()
        return {i: status for i, status in found if status in (_CHANGED, _OVERLAPS)}

    def copies(self, step: Step) -> list[Tensor]:
        """Copies, entered in the rows, of gradients that are lazy views or in another order than their weights."""
        made: list[Tensor] = []
        for n in np.flatnonzero(self._status == _TO_COPY).tolist() if self._odd else ():
            i = self._at[n]
            made.append(torch.empty_like(step.params[i], requires_grad=False).copy_(step.grads[i]))
            self.rows[n, GRADIENT] = made[-1].data_ptr()
        return made

    def run(self, step: Step, threads: int) -> None:
        """Take the step of its tensors."""
        scalars = to_buffer(self._numbered(step))
        self._runner(len(self._at), self._addresses[2], scalars.buffer_info()[0], threads)
        torch.autograd.graph.increment_version(step.written[id(self)])

    def _numbered(self, step: Step) -> list[list[Any]]:
        """The scalars of this step, a row for each set of numbers; which row a tensor takes is entered in its own."""
        begins: dict[int, int] = {}
        scalars: list[list[Any]] = []
        for part in self.parts(step):
            if id(part.scalars) not in begins:
                begins[id(part.scalars)] = len(scalars)
                scalars += (pack(part.recipe.bound_stages, numbers) for numbers in part.scalars)
        if len(scalars) == 1:
            self.rows[:, 1] = 0
        else:
            begin = np.array([begins.get(id(part.scalars), 0) for part in step.parts])
            self.rows[:, 1] = begin[self._parts] + step.which[self.positions]
        return scalars


def _getter(keys: tuple[str, ...]) -> Callable[[Any], tuple[Any, ...]]:
    first, *rest = keys
    return operator.itemgetter(first, *rest) if rest else lambda state: (state[first],)


class TensorTable:
    """The parameters of an optimizer, ready for every engine.

    `tables` hold the tensors of the present step that kernels take; `others` are the rest, by position in the step's
    lists, each with the reason; `groups` are the parameter groups of all positions. `untraceable` are the stages and
    dtypes that kernels cannot hold, by what is said of them.
    """

    def __init__(self) -> None:
        self.kernel_args: list[KernelArgs] = []
        self.fallbacks: dict[int, str] = {}
        self.groups: list[int] = []
        self.untraceable: dict[str, UntraceableError] = {}
        self._homes: dict[Any, PreparedGroup] = {}
        self._places: dict[int, PreparedGroup | str] = {}  # by ordinal, as the next
        self._known: dict[int, tuple[int, Kind]] = {}
        """Identity and kind of the parameters with a home; whatever else may change is compared at each step."""
        self._chosen: tuple[list[int], list[Any]] | None = None
        self._stretches = np.zeros((3, 0), dtype=np.int64)  # starts, ends, owners
        self._spans = 0, 0, 0
        self._apart: np.ndarray | None = None
        self._apart_version = -1

    def usable(self) -> list[KernelArgs]:
        """The tables whose kernels have not failed their first comparison."""
        return [table for table in self.kernel_args if table.kernel.failed is None]

    def left(self) -> list[int]:
        """The positions that no kernel takes."""
        failed = (table for table in self.kernel_args if table.kernel.failed is not None)
        return sorted(chain(self.fallbacks, *(table.positions.tolist() for table in failed)))

    def update(self, step: Step, make: Callable[[int], None], eager: str | None) -> None:
        """Bring everything up to date with a step.

        `make(i)` checks parameter i and completes its state; it is called before its tensors are looked over. `eager`
        is why no kernel shall be used, or None.
        """
        chosen = list(map(id, step.params)), [(part.place, part.kind, part.start) for part in step.parts]
        changed = chosen != self._chosen or len(self.usable()) < len(self.kernel_args)
        stale = self._unknown(step, chosen[0]) if changed else sorted(self.fallbacks)
        self._chosen = None  # until all is well
        for attempt in count():  # from the third time on, what still does not fit is left to the eager engine
            for i in stale:
                make(i)
                refused = eager or step.sharding.eager_reasons.get(i)
                found = (refused, None) if refused else self._looked_over(step, i)
                changed |= found[0] != self.fallbacks.get(i)
                self._place(step, i, *found)
            if changed:
                self._arrange(step)
            strange = {i: why for table in self.kernel_args for i, why in table.look(step, self._spans).items()}
            if not strange:
                break
            stale, changed = [i for i, why in strange.items() if why == _CHANGED], True
            overlapping = [i for i in strange if i not in stale]
            if overlapping and self._apart is not None and attempt < 2:  # perhaps only with what had a gradient once
                self._apart = None
                continue
            for i in {*overlapping, *self._overlapped(step, overlapping)} if attempt < 2 else strange:
                self._place(step, i, SHARED)
        step.copies += (copy for table in self.kernel_args for copy in table.copies(step))
        self._chosen = chosen

    def _overlapped(self, step: Step, positions: Sequence[int]) -> set[int]:
        """Whose weight or state the gradients of `positions` lie in: these step eagerly as well, in order."""
        found: set[int] = set()
        for i in positions:
            begin, end = memory_span(step.grads[i])
            starts, ends, owners = self._stretches
            found.update(owners[(starts < end) & (ends > begin)].tolist())
        return found - self.fallbacks.keys()

    def _unknown(self, step: Step, identities: list[int]) -> list[int]:
        """Positions of parameters that were not looked over, or that stood without a kernel."""
        wanted = list(zip(identities, [part.kind for part in step.part_of()], strict=True))
        known = list(map(self._known.get, step.ordinals))
        return [] if known == wanted else [i for i, pair in enumerate(wanted) if known[i] != pair]

    def _place(self, step: Step, i: int, home: PreparedGroup | str, row: _Row | None = None) -> None:
        ordinal, before = step.ordinals[i], self._places.get(step.ordinals[i])
        if isinstance(before, PreparedGroup) and before is not home:
            before.drop(ordinal)
        self._places[ordinal] = home
        self._known.pop(ordinal, None)
        if isinstance(home, PreparedGroup) and row is not None:
            home.put(ordinal, row)
            self._known[ordinal] = id(step.params[i]), step.part_of()[i].kind

    def _looked_over(self, step: Step, i: int) -> tuple[PreparedGroup | str, _Row | None]:
        p, g, state, part = step.params[i], step.grads[i], step.states[i], step.part_of()[i]
        storage = step.storage(p.dtype)
        if reason := unsupported_reason(part.recipe, storage, p, g, state):
            return reason, None
        try:
            kernel = kernel_for(part.recipe, storage, kernel_layout(part.recipe, storage, p, g, state))
        except UntraceableError as error:
            self.untraceable[str(error)] = error.with_traceback(None)  # whose frames hold the tensors
            return f"{error} cannot be compiled", None
        if not kernel.ready():
            return str(kernel.failed), None
        slots = {slot: state[slot.key] for slot in storage.slots(part.recipe)}
        spread, steps = step.sharding.spec(i), state["step"]
        keys, width = ("step", *(slot.key for slot in slots)), g.element_size()
        key = kernel, part.kind.active, keys, spread, width
        if key not in self._homes:
            self._homes[key] = PreparedGroup(*key)
        ordinal = shard_rng_stream(step.ordinals[i], spread)
        row = kernel_row(ordinal, p, steps, slots.values()), signature_of(p, g, steps, slots)
        return self._homes[key], _Row(*row, list(map(memory_span, (p, steps, *slots.values()))))

    def _arrange(self, step: Step) -> None:
        """Put the parameters of a step into tables."""
        places = list(map(self._places.__getitem__, step.ordinals))
        members: dict[PreparedGroup, list[int]] = {}
        self.fallbacks = {}
        if places and isinstance(places[0], PreparedGroup) and places.count(places[0]) == len(places):
            members[places[0]] = list(range(len(places)))
        else:
            for i, place in enumerate(places):
                if isinstance(place, str):
                    self.fallbacks[i] = place
                else:
                    members.setdefault(place, []).append(i)
        numbers = np.array(step.ordinals)
        chosen = {home: home.chosen(numbers[at].tolist()) for home, at in members.items()}
        apart, shared = None if self.fallbacks else self._known_apart(), set[int]()
        if apart is None:
            shared = self._spread_out(step, {home: (at, chosen[home][3]) for home, at in members.items()})
        else:
            self._note(apart)
        if shared:
            for i in shared:
                self._place(step, i, SHARED)
            self._arrange(step)
            return
        parts = np.repeat(range(len(step.parts)), [part.stop - part.start for part in step.parts])
        self.kernel_args = [KernelArgs(home, at, chosen[home][:3], parts[at]) for home, at in members.items()]
        self.groups = [part.place for part in step.part_of()]

    def _known_apart(self) -> np.ndarray | None:
        """Where all parameters lie that ever had a gradient, if no two share memory: then no set of them does."""
        version = sum(home.version for home in self._homes.values())
        if version != self._apart_version:
            none = np.zeros((0, 2), dtype=np.int64)
            spans = np.concatenate([none, *(home.memory_spans() for home in self._homes.values())])
            spans = spans[np.argsort(spans[:, 0])]
            starts, reach = spans[:, 0], np.maximum.accumulate(spans[:, 1])
            self._apart_version = version
            self._apart = None if (starts[1:] < reach[:-1]).any() else np.array([starts, reach])
        return self._apart

    def _note(self, memory_spans: np.ndarray) -> None:
        """Keep where everything lies that a step writes, in order: starts, ends, owners where they matter."""
        self._stretches, address = memory_spans, memory_spans.ctypes.data
        self._spans = memory_spans.shape[1], address, address + memory_spans.strides[0]

    def _spread_out(self, step: Step, chosen: Mapping[PreparedGroup, tuple[list[int], np.ndarray]]) -> set[int]:
        """Note where everything lies that the step writes; returns the positions of what kernels cannot take for it."""
        memory_spans = [found.reshape(-1, 2) for _, found in chosen.values()]
        owners = [np.repeat(at, found.shape[1]) for at, found in chosen.values()]
        rest = [i for i in self.fallbacks if _in_memory(step.params[i])]
        if rest or not owners:
            memory_spans.append(np.array([memory_span(step.params[i]) for i in rest], dtype=np.int64).reshape(-1, 2))
            owners.append(np.array(rest, dtype=np.int64))
        spans, owner = np.concatenate(memory_spans), np.concatenate(owners)
        order = np.argsort(spans[:, 0])
        starts, ends, owner = spans[order, 0], spans[order, 1], owner[order]
        reach = np.maximum.accumulate(ends)
        self._note(np.array([starts, reach, owner]))
        return find_overlaps(starts, ends, reach, owner) - set(rest)


def _in_memory(p: Tensor) -> bool:
    return is_plain(type(p)) and p.device.type == "cpu" and p.numel() > 0
