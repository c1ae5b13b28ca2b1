"""Compiled steps on accelerators: `program.one_step` through torch.compile, which makes Triton kernels of it.

One graph for a recipe's structure and its tensors' dtypes. Weight, gradient and state enter as flat views of any
length, every scalar of the step as an entry of one row of numbers, so that no value and no size compiles anything new.
The graph is first traced on symbols (`make_fx`): what torch.compile then sees holds no Python of ours to guard.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from dashpot._torch_private import mark_static
from dashpot.engine.group_step import TensorStep
from dashpot.engine.native.kernel import check_hashable, structure
from dashpot.engine.native.symbols import UntraceableError
from dashpot.engine.native.trace import Layout, set_numbers, trace, with_settings
from dashpot.engine.program import DEFAULT_FORMAT, StepScalars, StorageFormat, compute_dtype, one_step
from dashpot.engine.rounding import stream
from dashpot.recipes.recipe import BoundStage, Recipe
from dashpot.stages.base import Clock
from dashpot.utils.scalars import scalar_dtype
from dashpot.utils.warn import warn

__all__ = ["ACCELERATORS", "Inductor"]

ACCELERATORS = frozenset({"cuda", "xpu", "mps"})
"""Device types on which steps may be compiled; on the CPU dashpot has kernels of its own."""
_MOST_NUMBERED = 2**31  # elements are numbered in int32 where rounding draws
_PLAIN = (Tensor, torch.nn.Parameter)


class Inductor:
    """The compiled steps of one optimizer.

    Args:
        mode: "auto", "eager" or "compiled".
        backend: Of torch.compile.
        devices: The types of device whose tensors it takes.
        large: Elements from which on "auto" compiles.
    """

    def __init__(
        self, mode: str, large: int, backend: Any = "inductor", devices: frozenset[str] = ACCELERATORS
    ) -> None:
        self.mode, self.large, self.backend, self.devices = mode, large, backend, devices
        self._programs: dict[Hashable, _Program | None] = {}
        self._ordinals: dict[tuple[int, torch.device], Tensor] = {}

    def elements(self, tensors: Iterable[Tensor]) -> int:
        """How many elements lie on the devices it takes."""
        return sum(x.numel() for x in tensors if x.device.type in self.devices)

    def fallback_reason(self, p: Tensor, storage: StorageFormat, elements: int) -> str | None:
        """Why a tensor is not stepped here, or None; `elements` are those of the whole step on such devices."""
        checks = (
            (self.mode == "eager", "engine='eager' was asked for"),
            (p.device.type not in self.devices, f"it is on {p.device}"),
            (type(p) not in _PLAIN, f"it is a {type(p).__name__}"),
            (self.mode == "auto" and elements < self.large, f"the model has fewer than {self.large} elements"),
            (p.numel() < 2, "it has fewer than two elements"),
            (storage.is_stochastic and (p.numel() >= _MOST_NUMBERED or p.device.type == "mps"), "rounding draws there"),
            (torch.is_grad_enabled(), "the step is recorded for autograd"),
        )
        return next((text for fails, text in checks if fails), None)

    def run(
        self,
        recipe: Recipe,
        works: Sequence[TensorStep],
        scalars: Sequence[StepScalars],
        elements: int,
        skip: Any = False,
    ) -> list[TensorStep]:
        """Take the steps that can be compiled, large tensors first; returns the others.

        `scalars[work.scalars_index]` are the scalars of a tensor, `rng_key` that of the step; `elements` are those of
        the whole step on such devices. `skip` is False, or a 0-d tensor: where it holds, nothing changes.
        """
        left: list[TensorStep] = []
        rows: dict[torch.device, Tensor] = {}
        for work in sorted(works, key=lambda work: -work.p.numel()):  # kernels are tuned for the first size they meet
            refused = self.fallback_reason(work.p, work.storage, elements) is not None
            program = None if refused else self._program(recipe, work, skip is not False)
            inputs = None if program is None else _inputs(recipe, work)
            if program is None or inputs is None:
                left.append(work)
                continue
            device = work.p.device
            if device not in rows:
                rows[device] = _table(recipe.bound_stages, scalars, device)
            row = _line(rows[device][work.scalars_index, : program.width])
            extra = [skip.to(device)] if skip is not False else []
            if work.storage.is_stochastic:
                extra.append(self._ordinal(work.rng_stream, device))
            if program.run([row, *extra, *inputs]):
                torch.autograd.graph.increment_version([work.p, *(work.state[key] for key in program.slots)])
            else:
                left.append(work)
        return left

    def _ordinal(self, ordinal: int, device: torch.device) -> Tensor:
        if (ordinal, device) not in self._ordinals:
            self._ordinals[ordinal, device] = torch.full((), ordinal, dtype=torch.int32, device=device)
        return self._ordinals[ordinal, device]

    def _program(self, recipe: Recipe, work: TensorStep, skips: bool) -> _Program | None:
        p, slots = work.p, work.storage.slots(recipe)
        dtypes = (p.dtype, work.grad.dtype, *(work.state[slot.key].dtype for slot in slots))
        active = tuple(not stage.is_noop() for stage in recipe.stages)
        key = structure(recipe), active, work.storage, dtypes, p.device.type, skips
        try:
            check_hashable(key)
        except UntraceableError:
            return None
        if key not in self._programs:
            self._programs[key] = _Program(recipe, work.storage, skips, self.backend) if _elementwise(recipe) else None
        return self._programs[key]


class _Program:
    """The step of one recipe structure, compiled at its first run."""

    def __init__(self, recipe: Recipe, storage: StorageFormat, skips: bool, backend: Any) -> None:
        self._recipe, self._storage, self._skips, self._backend = recipe, storage, skips, backend
        self._function: Callable[..., Any] | None = None
        self._failed = self._proven = False
        self.width = _width(recipe.bound_stages)
        self.slots = [slot.key for slot in storage.slots(recipe)]
        self._single = {slot.key for slot in recipe.slots if slot.shape == "per_tensor"}

    def run(self, inputs: list[Tensor]) -> bool:
        """Run on (row, skip?, ordinal?, weight, gradient, slots); False where torch.compile fails, now or before."""
        if self._failed:
            return False
        mark_static(inputs[0])
        try:
            if self._function is None:
                self._function = self._compiled(inputs)
            self._function(*inputs)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            if self._proven:
                raise
            self._failed = True
            _warn_once(inputs[0].device, error)
            return False
        self._proven = True
        return True

    def _compiled(self, inputs: list[Tensor]) -> Callable[..., Any]:
        from torch.fx.experimental.proxy_tensor import make_fx

        size = self.width + 1  # equal sizes would become one symbol, and the row's is no symbol
        examples = [x.new_empty(size) if x.dim() and x.numel() > 1 else x for x in inputs[1:]]
        graph = make_fx(self._step, tracing_mode="symbolic")(inputs[0], *examples)
        return torch.compile(graph, dynamic=True, fullgraph=True, backend=self._backend)

    def _step(self, row: Tensor, *tensors: Tensor) -> None:
        storage, rest = self._storage, list(tensors)
        skip = rest.pop(0) if self._skips else None
        lines, scalars = _numbered(self._recipe.bound_stages, iter(row.unbind()))
        if storage.is_stochastic:
            rng_key = stream(scalars.rng_key.to(torch.int32), rest.pop(0))
            scalars = scalars._replace(rng_key=rng_key)
        w, g, *slots = rest
        places = dict(zip(self.slots, slots, strict=True))
        # A number per tensor comes as a vector of one: torch 2.13 loses what is written to a float64 input without one.
        state = {key: place.reshape(()) if key in self._single else place for key, place in places.items()}
        index = torch.arange(w.numel(), dtype=torch.int32, device=w.device) if storage.is_stochastic else None
        new, kept = one_step(lines, storage, compute_dtype(w.dtype), scalars, w, g, state, index)
        for place, value in ((w, new), *((places[key], value) for key, value in kept.items())):
            value = value.reshape(place.shape)
            place.copy_(value if skip is None else torch.where(skip, place, value))


def _elementwise(recipe: Recipe) -> bool:
    """True where the stages work on elements and whole-tensor means alone, so that they may be given flat views."""
    slots = tuple((slot.key, torch.float32) for slot in recipe.slots)
    layout = Layout(torch.float32, torch.float32, torch.float32, slots)
    try:
        trace(recipe.bound_stages, recipe.slots, DEFAULT_FORMAT, layout, _CLOCK)
    except UntraceableError:
        return False
    return True


# ---- tensors --------------------------------------------------------------------------------------------------------


def _inputs(recipe: Recipe, work: TensorStep) -> list[Tensor] | None:
    """Flat views of weight, gradient and slots in one order of elements, or None; a gradient in another is copied."""
    slots = [(slot, work.state[slot.key]) for slot in work.storage.slots(recipe)]
    order = _order(work.p)
    w = _flat(work.p, order)
    g = _flat(work.grad.resolve_conj().resolve_neg(), order)
    if g is None:
        g = _flat(torch.empty_like(work.p).copy_(work.grad), order)
    kept = [_line(value) if slot.shape == "per_tensor" else _flat(value, order) for slot, value in slots]
    found = [w, g, *kept]
    alike = all(type(value) is Tensor and value.device == work.p.device for _, value in slots)
    return None if not alike or any(x is None for x in found) else found  # pyright: ignore[reportReturnType]


def _order(x: Tensor) -> list[int]:
    return sorted(range(x.dim()), key=x.stride, reverse=True)


def _flat(x: Tensor, order: list[int]) -> Tensor | None:
    """The elements of `x` as they lie in memory, or None where they do not lie close together in this order."""
    if len(order) != x.dim() or x.is_conj() or x.is_neg() or not x.detach().permute(order).is_contiguous():
        return None
    return _line(torch.view_as_real(x.detach()) if x.is_complex() else x)


def _line(x: Tensor) -> Tensor:
    """The memory of dense `x` as a 1-D tensor that is no view: torch.compile guards the shape of what a view is of."""
    start = x.storage_offset()
    return torch.empty(0, dtype=x.dtype, device=x.device).set_(x.untyped_storage(), start, (x.numel(),), (1,))  # pyright: ignore[reportArgumentType]


# ---- scalars --------------------------------------------------------------------------------------------------------


def _values(lines: Sequence[BoundStage], scalars: StepScalars) -> list[Any]:
    """Every scalar of a step, in the order in which `_numbered` reads them back."""
    limit = math.inf if scalars.clip_value is None else scalars.clip_value
    row = [scalars.scale, limit, scalars.rng_key, scalars.clock.lr, scalars.clock.factor]
    for line, values in zip(lines, scalars.stages, strict=True):
        row += [*values, *(getattr(line.stage, name) for name in set_numbers(line.stage))]
    return row


def _width(lines: Sequence[BoundStage]) -> int:
    return len(_values(lines, StepScalars(_CLOCK, tuple(line.stage.prepare(_CLOCK) for line in lines))))


def _numbered(lines: Sequence[BoundStage], row: Iterator[Tensor]) -> tuple[list[BoundStage], StepScalars]:
    """The stages and the numbers of a step with tensors in the place of all their scalars."""
    scale, limit, rng_key, lr, factor = (next(row) for _ in range(5))
    filled, scalars = [], []
    for line in lines:
        names = line.stage.prepare(_CLOCK)
        scalars.append(type(names)(*(next(row) for _ in names)))
        settings = {name: next(row) for name in set_numbers(line.stage)}
        filled.append(line._replace(stage=with_settings(line.stage, settings)))
    return filled, StepScalars(Clock(None, lr, factor), tuple(scalars), scale, limit, rng_key)


_CLOCK = Clock(t=1, lr=1.0)


def _table(lines: Sequence[BoundStage], scalars: Sequence[StepScalars], device: torch.device) -> Tensor:
    """The scalars on the device, a row for each of `numbers`; nothing is copied there from the host's memory.

    Rows have an even number of entries, so that each begins at a multiple of 16 bytes.
    """
    columns = list(zip(*(_values(lines, item) for item in scalars), strict=True))
    table = torch.empty((len(scalars), len(columns) + len(columns) % 2), dtype=scalar_dtype(device), device=device)
    for place, values in zip(table.unbind(1), columns, strict=False):
        first = values[0]
        if all(value is first for value in values) or not any(isinstance(value, Tensor) for value in values):
            same = all(value is first or value == first for value in values)
            for entry, value in [(place, first)] if same else zip(place.unbind(), values, strict=True):
                entry.copy_(value) if isinstance(value, Tensor) else entry.fill_(value)
        else:
            place.copy_(torch.stack([torch.as_tensor(value, dtype=table.dtype).to(device) for value in values]))
    return table


_warned: set[str] = set()


def _warn_once(device: torch.device, error: Exception) -> None:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reason = " ".join(lines[:2]) or type(error).__name__
    if reason not in _warned:
        _warned.add(reason)
        warn(
            f"dashpot runs its slower eager engine on {device}, with the same results: torch.compile failed with "
            f"{type(error).__name__}: {reason} It needs Triton and a C compiler on a GPU; engine='eager' does without.",
            RuntimeWarning,
        )
