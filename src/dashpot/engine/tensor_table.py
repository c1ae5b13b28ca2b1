"""Kernel arguments for the parameters of an optimizer, prepared once and validated at every step.

A kernel dereferences raw addresses without checks, so its preconditions are checked here: all tensors are plain, dense
and on the CPU, the weight and the state have the same memory order, and no two tensors overlap. A parameter is prepared
when it first has a gradient, and again whenever the type, layout or address of one of its tensors has changed. No
tensor is kept alive from one step to the next.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from itertools import chain, count
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from dashpot.engine.group_step import GroupStep, Step
from dashpot.engine.layout import is_plain, kernel_layout, kernel_row, signature_of, unsupported_reason
from dashpot.engine.memory_spans import WrittenMemory, memory_span
from dashpot.engine.native.cpp import GRADIENT
from dashpot.engine.native.kernel import Kernel, kernel_for
from dashpot.engine.native.symbols import UntraceableError
from dashpot.engine.scalars import pack, to_buffer
from dashpot.engine.sharding import ShardSpec, shard_rng_stream

_CHANGED, _TO_COPY, _OVERLAPS = 1, 2, 3  # `Status` of tables.h
_MAX_ATTEMPTS = 2  # after this number, tensors that are still invalid or overlapping use the eager engine
SHARED = "shares memory with another tensor"


def step_count(state: Mapping[str, Any]) -> int:
    """Return the number of steps of a parameter.

    In old torch checkpoints the count is a plain number. The state of `torch.optim.SGD` has no count. For such a state,
    the result is 1 if the state contains a momentum buffer.
    """
    return int(state["step"]) if "step" in state else int(any(isinstance(v, Tensor) for v in state.values()))


class _PreparedTensor(NamedTuple):
    """A parameter's row of kernel arguments, signature for validation, and spans of memory that its steps write."""

    row: list[int]
    signature: list[int]
    spans: list[tuple[int, int]]


class PreparedGroup:
    """All parameters prepared for one kernel.

    Args:
        kernel: The kernel.
        active: For each stage, whether it is active, that is, not a no-op.
        keys: Keys of the state that the kernel writes: the step count, followed by the slots.
        spec: Sharding of the parameters.
        width: Size of a gradient element in bytes.
    """

    def __init__(
        self, kernel: Kernel, active: tuple[bool, ...], keys: tuple[str, ...], spec: ShardSpec | None, width: int
    ) -> None:
        self.kernel, self.active, self.keys, self.spec, self.width = kernel, active, keys, spec, width
        self.version = 0  # incremented when a parameter is added or removed
        self._tensors: dict[int, _PreparedTensor] = {}  # by index of the parameter in the optimizer
        self._places: dict[int, int] | None = None
        self._arrays: tuple[np.ndarray, ...] = ()

    def add(self, index: int, tensor: _PreparedTensor) -> None:
        """Add or replace a parameter."""
        self._tensors[index] = tensor
        self._places = None
        self.version += 1

    def remove(self, index: int) -> None:
        """Remove a parameter."""
        del self._tensors[index]
        self._places = None
        self.version += 1

    def memory_spans(self) -> np.ndarray:
        """Return the memory spans that steps of all parameters write, an array of shape (n, 2)."""
        spans = [span for tensor in self._tensors.values() for span in tensor.spans]
        return np.array(spans, dtype=np.int64).reshape(-1, 2)

    def select(self, indices: Sequence[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Return (rows, signature offsets, signatures, memory spans). Only the signatures cover all parameters."""
        if self._places is None:
            tensors = list(self._tensors.values())
            self._places = {index: place for place, index in enumerate(self._tensors)}
            lengths = [0, *(len(tensor.signature) for tensor in tensors)]
            self._arrays = (
                np.array([tensor.row for tensor in tensors], dtype=np.int64),
                np.cumsum(lengths[:-1], dtype=np.int64),
                np.array(list(chain.from_iterable(tensor.signature for tensor in tensors)), dtype=np.int64),
                np.array([tensor.spans for tensor in tensors], dtype=np.int64),
            )
        at = np.array(list(map(self._places.__getitem__, indices)))
        rows, offsets, signatures, spans = self._arrays
        return rows[at], offsets[at], signatures, spans[at]


class KernelArgs:
    """The arguments of one kernel in a step, with one row per tensor.

    Attributes:
        positions: Positions of the tensors in the lists of the step.
        rows: The argument rows.
        counts: The step count of each tensor.
    """

    def __init__(
        self, prepared: PreparedGroup, positions: list[int], arrays: tuple[np.ndarray, ...], groups: np.ndarray
    ) -> None:
        self.kernel, self.active, self.spec = prepared.kernel, prepared.active, prepared.spec
        self.positions = np.array(positions)
        self.rows, self._offsets, self._signatures = arrays
        self.counts, self._status = np.zeros(len(positions)), np.zeros(len(positions), dtype=np.int8)
        arrays = self._offsets, self._signatures, self.rows, self.counts, self._status
        self._validator, self._addresses = self.kernel.check_function(), [array.ctypes.data for array in arrays]
        self._runner = self.kernel.step_function(self.active)
        self._prepared, self._at, self._get = prepared, positions, _getter(prepared.keys)
        self._groups, self._group_numbers = groups, sorted(set(groups.tolist()))
        self._has_mismatch = False

    def elements(self) -> int:
        """Return the total number of elements of the tensors."""
        return int(self.rows[:, 0].sum())

    def groups(self, step: Step) -> list[GroupStep]:
        """Return the groups of the step to which these tensors belong."""
        return [step.groups[number] for number in self._group_numbers]

    def refresh(self, step: Step, written: tuple[int, int, int]) -> dict[int, int]:
        """Read gradient addresses and step counts; return the positions of invalid tensors with the status of each."""
        params, grads, states = map(self._select, (step.params, step.grads, step.states))
        try:
            kept = list(chain.from_iterable(map(self._get, states)))
        except KeyError:
            missing = (not state.keys() >= set(self._prepared.keys) for state in states)
            return {i: _CHANGED for i, lacks in zip(self._at, missing, strict=True) if lacks}
        objects = [*params, *grads, *kept]
        handles = np.fromiter(objects, dtype=object, count=len(objects))
        rows, slots, width = len(self._at), len(self._prepared.keys) - 1, self._prepared.width
        mismatches = self._validator(rows, slots, handles.ctypes.data, *self._addresses, width, *written)
        self._has_mismatch = mismatches > 0
        found = zip(self._at, self._status.tolist(), strict=True) if mismatches else ()
        invalid = {i: status for i, status in found if status in (_CHANGED, _OVERLAPS)}
        if not invalid:
            step.written[id(self)] = [*params, *kept]
        return invalid

    def _select(self, values: Sequence[Any]) -> Sequence[Any]:
        return values if len(values) == len(self._at) else [values[i] for i in self._at]

    def copy_gradients(self, step: Step) -> list[Tensor]:
        """Copy gradients that are lazy views or differ from their weight in memory order, and use the copies."""
        copies: list[Tensor] = []
        for n in np.flatnonzero(self._status == _TO_COPY).tolist() if self._has_mismatch else ():
            i = self._at[n]
            copies.append(torch.empty_like(step.params[i], requires_grad=False).copy_(step.grads[i]))
            self.rows[n, GRADIENT] = copies[-1].data_ptr()
        return copies

    def run(self, step: Step, threads: int) -> None:
        """Run the kernel."""
        scalars = to_buffer(self._scalar_rows(step))
        self._runner(len(self._at), self._addresses[2], scalars.buffer_info()[0], threads)
        torch.autograd.graph.increment_version(step.written[id(self)])

    def _scalar_rows(self, step: Step) -> list[list[Any]]:
        """Return the distinct scalar rows, and write the index of each tensor's scalar row into its argument row."""
        begins: dict[int, int] = {}
        rows: list[list[Any]] = []
        for group in self.groups(step):
            if id(group.scalars) not in begins:
                begins[id(group.scalars)] = len(rows)
                rows += (pack(group.plan.recipe.bound_stages, scalars) for scalars in group.scalars)
        if len(rows) == 1:
            self.rows[:, 1] = 0
        else:
            begin = np.array([begins.get(id(group.scalars), 0) for group in step.groups])
            self.rows[:, 1] = begin[self._groups] + step.scalars_index[self.positions]
        return rows


def _getter(keys: tuple[str, ...]) -> Callable[[Any], tuple[Any, ...]]:
    first, *rest = keys
    return operator.itemgetter(first, *rest) if rest else lambda state: (state[first],)


class TensorTable:
    """Kernel support and kernel arguments of the tensors of an optimizer.

    Attributes:
        kernel_args: Kernel arguments for the current step, one entry per kernel.
        fallbacks: The reason for the eager engine, by position, for the tensors of the current step without a kernel.
        group_indices: For each position, the index of its parameter group.
        untraceable: Errors that prevented the compilation of recipes, by message.
    """

    def __init__(self) -> None:
        self.kernel_args: list[KernelArgs] = []
        self.fallbacks: dict[int, str] = {}
        self.group_indices: list[int] = []
        self.untraceable: dict[str, UntraceableError] = {}
        self._prepared: dict[Any, PreparedGroup] = {}
        self._placement: dict[int, PreparedGroup | str] = {}  # index -> prepared group, or reason for the fallback
        self._keys: dict[int, Any] = {}  # identity and kernel key at preparation; the rest is validated at each step
        self._layout: Any = None  # tensors and groups of the last step
        self._written = WrittenMemory()

    def usable(self) -> list[KernelArgs]:
        """Return the arguments of all kernels except those that failed their comparison with the eager engine."""
        return [args for args in self.kernel_args if args.kernel.failed is None]

    def eager_positions(self) -> list[int]:
        """Return the positions of all tensors that are not stepped by a kernel."""
        failed = (args for args in self.kernel_args if args.kernel.failed is not None)
        return sorted(chain(self.fallbacks, *(args.positions.tolist() for args in failed)))

    def update(self, step: Step, complete_state: Callable[[int], None], eager: str | None) -> None:
        """Prepare new and changed tensors, and validate all others.

        Args:
            step: The step.
            complete_state: Function that checks the parameter at a position and completes its state. It is called
                before the parameter is prepared.
            eager: The reason why kernels are not used at all, or None.
        """
        identities = list(map(id, step.params))
        layout = identities, [(g.index, g.plan.structure, g.plan.active, g.start) for g in step.groups]
        changed = layout != self._layout or len(self.usable()) < len(self.kernel_args)
        stale = self._unprepared(step, identities) if changed else sorted(self.fallbacks)
        self._layout = None  # set once all tensors are valid
        for attempt in count():
            for i in stale:
                complete_state(i)
                reason = eager or step.sharding.eager_reasons.get(i)
                prepared, tensor = (reason, None) if reason else self._prepare(step, i)
                changed |= prepared != self.fallbacks.get(i)
                self._place(step, i, prepared, tensor)
            if changed:
                self._arrange(step)
            invalid = {
                i: s for args in self.kernel_args for i, s in args.refresh(step, self._written.arguments).items()
            }
            if not invalid:
                break
            stale, changed = [i for i, status in invalid.items() if status == _CHANGED], True
            overlapping = [i for i in invalid if i not in stale]
            if overlapping and self._written.all_disjoint and attempt < _MAX_ATTEMPTS:
                self._written.drop_all()  # the other tensor may have no gradient at this step
                continue
            for i in self._with_owners(step, overlapping) if attempt < _MAX_ATTEMPTS else invalid:
                self._place(step, i, SHARED)
        step.copies += (copy for args in self.kernel_args for copy in args.copy_gradients(step))
        self._layout = layout

    def _with_owners(self, step: Step, positions: Sequence[int]) -> set[int]:
        """Add the positions whose weight or state overlaps gradients of `positions`: all must be stepped in order."""
        owners = (self._written.owners_of(memory_span(step.grads[i])) for i in positions)
        return set(positions) | (set().union(*owners) - self.fallbacks.keys())

    def _unprepared(self, step: Step, identities: list[int]) -> list[int]:
        """Return the positions of tensors that have not been prepared for their current kernel."""
        plans = (group.plan for group in step.group_of())
        wanted = [(i, plan.structure, plan.active) for i, plan in zip(identities, plans, strict=True)]
        known = list(map(self._keys.get, step.indices))
        return [] if known == wanted else [i for i, key in enumerate(wanted) if known[i] != key]

    def _place(self, step: Step, i: int, placement: PreparedGroup | str, tensor: _PreparedTensor | None = None) -> None:
        index, before = step.indices[i], self._placement.get(step.indices[i])
        if isinstance(before, PreparedGroup) and before is not placement:
            before.remove(index)
        self._placement[index] = placement
        self._keys.pop(index, None)
        if isinstance(placement, PreparedGroup) and tensor is not None:
            placement.add(index, tensor)
            plan = step.group_of()[i].plan
            self._keys[index] = id(step.params[i]), plan.structure, plan.active

    def _prepare(self, step: Step, i: int) -> tuple[PreparedGroup | str, _PreparedTensor | None]:
        p, g, state, plan = step.params[i], step.grads[i], step.states[i], step.group_of()[i].plan
        storage = step.storage(p.dtype)
        if reason := unsupported_reason(plan.recipe, storage, p, g, state):
            return reason, None
        try:
            kernel = kernel_for(plan.recipe, storage, kernel_layout(plan.recipe, storage, p, g, state))
        except UntraceableError as error:
            self.untraceable[str(error)] = error.with_traceback(None)  # the frames of the traceback keep tensors alive
            return f"{error} cannot be compiled", None
        if not kernel.ready():
            return str(kernel.failed), None
        slots = {slot: state[slot.key] for slot in storage.slots(plan.recipe)}
        spec, steps = step.sharding.spec(i), state["step"]
        keys, width = ("step", *(slot.key for slot in slots)), g.element_size()
        key = kernel, plan.active, keys, spec, width
        if key not in self._prepared:
            self._prepared[key] = PreparedGroup(*key)
        row = kernel_row(shard_rng_stream(step.indices[i], spec), p, steps, slots.values())
        spans = list(map(memory_span, (p, steps, *slots.values())))
        return self._prepared[key], _PreparedTensor(row, signature_of(p, g, steps, slots), spans)

    def _arrange(self, step: Step) -> None:
        """Collect the kernel arguments for the tensors of a step."""
        placements = list(map(self._placement.__getitem__, step.indices))
        members: dict[PreparedGroup, list[int]] = {}
        self.fallbacks = {}
        if (
            placements
            and isinstance(placements[0], PreparedGroup)
            and placements.count(placements[0]) == len(placements)
        ):
            members[placements[0]] = list(range(len(placements)))
        else:
            for i, placement in enumerate(placements):
                if isinstance(placement, str):
                    self.fallbacks[i] = placement
                else:
                    members.setdefault(placement, []).append(i)
        indices = np.array(step.indices)
        selected = {prepared: prepared.select(indices[at].tolist()) for prepared, at in members.items()}
        everything = self._prepared.values()
        version = sum(prepared.version for prepared in everything)
        all_disjoint = not self.fallbacks and self._written.use_all(version, (p.memory_spans() for p in everything))
        spans = {prepared: (at, selected[prepared][3]) for prepared, at in members.items()}
        if not all_disjoint and (shared := self._overlapping(step, spans)):
            for i in shared:
                self._place(step, i, SHARED)
            self._arrange(step)
            return
        groups = np.repeat(range(len(step.groups)), [group.stop - group.start for group in step.groups])
        self.kernel_args = [KernelArgs(p, at, selected[p][:3], groups[at]) for p, at in members.items()]
        self.group_indices = [group.index for group in step.group_of()]

    def _overlapping(self, step: Step, members: Mapping[PreparedGroup, tuple[list[int], np.ndarray]]) -> set[int]:
        """Return the positions that kernels cannot step because of an overlap with other memory of the step."""
        spans = [found.reshape(-1, 2) for _, found in members.values()]
        owners = [np.repeat(at, found.shape[1]) for at, found in members.values()]
        rest = [i for i in self.fallbacks if _has_memory(step.params[i])]
        if rest or not owners:
            spans.append(np.array([memory_span(step.params[i]) for i in rest], dtype=np.int64).reshape(-1, 2))
            owners.append(np.array(rest, dtype=np.int64))
        return self._written.use_exact(np.concatenate(spans), np.concatenate(owners)) - set(rest)


def _has_memory(p: Tensor) -> bool:
    return is_plain(type(p)) and p.device.type == "cpu" and p.numel() > 0
