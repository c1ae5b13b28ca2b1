"""Compiled steps on accelerators: `program.one_step`, compiled by torch.compile to Triton kernels.

There is one graph for each recipe structure and combination of dtypes. The weight, gradient and state are flat views of
dynamic length, and all scalars are entries of the scalar row, so neither values nor sizes cause a recompilation. The
graph is first traced with `make_fx`, so that torch.compile installs no guards on Python code of dashpot.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from dashpot._torch_private import mark_static
from dashpot.engine.group_step import TensorStep
from dashpot.engine.native.kernel import check_hashable, structure
from dashpot.engine.native.symbols import UntraceableError
from dashpot.engine.native.trace import trace_float32
from dashpot.engine.program import StepScalars, StorageFormat, compute_dtype, one_step
from dashpot.engine.rounding import stream
from dashpot.engine.scalars import example_records, pack, unpack, width
from dashpot.recipes.recipe import BoundStage, Recipe
from dashpot.utils.scalars import scalar_dtype
from dashpot.utils.warn import warn

ACCELERATORS = frozenset({"cuda", "xpu", "mps"})
"""Device types for which steps are compiled by torch.compile. On the CPU, native kernels are used instead."""
_MAX_INDEXED = 2**31  # stochastic rounding indexes elements in int32
_PLAIN = (Tensor, torch.nn.Parameter)


class Inductor:
    """The compiled steps of one optimizer.

    Args:
        mode: The engine option: "auto", "eager" or "compiled".
        min_elements: Minimum number of elements on `devices` for "auto" to compile.
        backend: Backend of torch.compile.
        devices: Types of the devices to compile for.
    """

    def __init__(
        self, mode: str, min_elements: int, backend: Any = "inductor", devices: frozenset[str] = ACCELERATORS
    ) -> None:
        self.mode, self.min_elements, self.backend, self.devices = mode, min_elements, backend, devices
        self._programs: dict[Hashable, _Program | None] = {}
        self._streams: dict[tuple[int, torch.device], Tensor] = {}

    def elements(self, tensors: Iterable[Tensor]) -> int:
        """Return the total number of elements of the tensors that are on `devices`."""
        return sum(x.numel() for x in tensors if x.device.type in self.devices)

    def fallback_reason(self, p: Tensor, storage: StorageFormat, elements: int) -> str | None:
        """Return the reason why a tensor has no compiled step, or None if it has one.

        `elements` is the number of elements of all tensors of the step on `devices`.
        """
        checks = (
            (self.mode == "eager", "engine='eager'"),
            (p.device.type not in self.devices, f"on {p.device}"),
            (type(p) not in _PLAIN, f"tensor subclass {type(p).__name__}"),
            (
                self.mode == "auto" and elements < self.min_elements,
                f"the model has fewer than {self.min_elements} elements",
            ),
            (p.numel() < 2, "fewer than two elements"),
            (
                storage.is_stochastic and (p.numel() >= _MAX_INDEXED or p.device.type == "mps"),
                "stochastic rounding is not supported",
            ),
            (torch.is_grad_enabled(), "step recorded by autograd"),
        )
        return next((text for fails, text in checks if fails), None)

    def run(
        self,
        recipe: Recipe,
        steps: Sequence[TensorStep],
        scalars: Sequence[StepScalars],
        elements: int,
        skip: Any = False,
    ) -> list[TensorStep]:
        """Perform the steps that can be compiled, large tensors first, and return the remaining steps.

        Args:
            recipe: Recipe of the parameter group.
            steps: Steps of the tensors in the group.
            scalars: Scalars, indexed by the `scalars_index` of each step, with the RNG key of the step.
            elements: Number of elements of all tensors of the step on `devices`.
            skip: False or a 0-d tensor; if its value is true, weights and state do not change.
        """
        rest: list[TensorStep] = []
        rows: dict[torch.device, Tensor] = {}
        for step in sorted(steps, key=lambda step: -step.p.numel()):  # kernels are tuned for the first size
            program = None
            if self.fallback_reason(step.p, step.storage, elements) is None:
                program = self._program(recipe, step, skip is not False)
            inputs = None if program is None else _inputs(recipe, step)
            if program is None or inputs is None:
                rest.append(step)
                continue
            device = step.p.device
            if device not in rows:
                rows[device] = _scalar_table(recipe.bound_stages, scalars, device)
            row = _line(rows[device][step.scalars_index, : program.width])
            extra = [skip.to(device)] if skip is not False else []
            if step.storage.is_stochastic:
                extra.append(self._rng_stream(step.rng_stream, device))
            if program.run([row, *extra, *inputs]):
                torch.autograd.graph.increment_version([step.p, *(step.state[key] for key in program.slots)])
            else:
                rest.append(step)
        return rest

    def _rng_stream(self, number: int, device: torch.device) -> Tensor:
        if (number, device) not in self._streams:
            self._streams[number, device] = torch.full((), number, dtype=torch.int32, device=device)
        return self._streams[number, device]

    def _program(self, recipe: Recipe, step: TensorStep, skips: bool) -> _Program | None:
        p, slots = step.p, step.storage.slots(recipe)
        dtypes = (p.dtype, step.grad.dtype, *(step.state[slot.key].dtype for slot in slots))
        active = tuple(not stage.is_noop() for stage in recipe.stages)
        key = structure(recipe), active, step.storage, dtypes, p.device.type, skips
        try:
            check_hashable(key)
        except UntraceableError:
            return None
        if key not in self._programs:
            is_traceable = trace_float32(recipe, active=True) is not None  # elementwise except for reductions
            self._programs[key] = _Program(recipe, step.storage, skips, self.backend) if is_traceable else None
        return self._programs[key]


class _Program:
    """The step of one recipe structure, compiled when it first runs."""

    def __init__(self, recipe: Recipe, storage: StorageFormat, skips: bool, backend: Any) -> None:
        self._recipe, self._storage, self._skips, self._backend = recipe, storage, skips, backend
        self._function: Callable[..., Any] | None = None
        self._failed = self._succeeded = False
        self._records = example_records(recipe.bound_stages)
        self.width = width(recipe.bound_stages, self._records)
        self.slots = [slot.key for slot in storage.slots(recipe)]
        self._per_tensor = {slot.key for slot in recipe.slots if slot.shape == "per_tensor"}

    def run(self, inputs: list[Tensor]) -> bool:
        """Run on `inputs`, and return False if torch.compile failed.

        The inputs are the row of scalars, the skip flag and the random stream (if the step uses them), the weight, the
        gradient and the slots.
        """
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
            if self._succeeded:
                raise
            self._failed = True
            _warn_once(inputs[0].device, error)
            return False
        self._succeeded = True
        return True

    def _compiled(self, inputs: list[Tensor]) -> Callable[..., Any]:
        from torch.fx.experimental.proxy_tensor import make_fx

        size = self.width + 1  # not the static size of the row, because equal sizes would become one symbol
        examples = [x.new_empty(size) if x.dim() and x.numel() > 1 else x for x in inputs[1:]]
        graph = make_fx(self._step, tracing_mode="symbolic")(inputs[0], *examples)
        return torch.compile(graph, dynamic=True, fullgraph=True, backend=self._backend)

    def _step(self, row: Tensor, *tensors: Tensor) -> None:
        storage, rest = self._storage, list(tensors)
        skip = rest.pop(0) if self._skips else None
        stages, scalars = unpack(self._recipe.bound_stages, self._records, iter(row.unbind()))
        if storage.is_stochastic:
            scalars = scalars._replace(rng_key=stream(scalars.rng_key.to(torch.int32), rest.pop(0)))
        w, g, *slots = rest
        places = dict(zip(self.slots, slots, strict=True))
        # Per-tensor slots are 1-element vectors: torch 2.13 loses writes to 0-d float64 inputs.
        state = {key: place.reshape(()) if key in self._per_tensor else place for key, place in places.items()}
        index = torch.arange(w.numel(), dtype=torch.int32, device=w.device) if storage.is_stochastic else None
        new, kept = one_step(stages, storage, compute_dtype(w.dtype), scalars, w, g, state, index)
        for place, value in ((w, new), *((places[key], value) for key, value in kept.items())):
            value = value.reshape(place.shape)
            place.copy_(value if skip is None else torch.where(skip, place, value))


# ---- tensors --------------------------------------------------------------------------------------------------------


def _inputs(recipe: Recipe, step: TensorStep) -> list[Tensor] | None:
    """Return flat views of weight, gradient and slots in the same memory order, or None if no such views exist.

    A gradient with a different memory order is copied.
    """
    slots = [(slot, step.state[slot.key]) for slot in step.storage.slots(recipe)]
    order = _order(step.p)
    w = _flat(step.p, order)
    g = _flat(step.grad.resolve_conj().resolve_neg(), order)
    if g is None:
        g = _flat(torch.empty_like(step.p).copy_(step.grad), order)
    kept = [_line(value) if slot.shape == "per_tensor" else _flat(value, order) for slot, value in slots]
    found = [w, g, *kept]
    alike = all(type(value) is Tensor and value.device == step.p.device for _, value in slots)
    return None if not alike or any(x is None for x in found) else found  # pyright: ignore[reportReturnType]


def _order(x: Tensor) -> list[int]:
    return sorted(range(x.dim()), key=x.stride, reverse=True)


def _flat(x: Tensor, order: list[int]) -> Tensor | None:
    """Return the elements of `x` in memory order, or None if they are not dense in the given order of dimensions."""
    if len(order) != x.dim() or x.is_conj() or x.is_neg() or not x.detach().permute(order).is_contiguous():
        return None
    return _line(torch.view_as_real(x.detach()) if x.is_complex() else x)


def _line(x: Tensor) -> Tensor:
    """Return the memory of a dense tensor as a 1-D tensor.

    The result is not a view, because torch.compile guards on the shape of a view's base.
    """
    start = x.storage_offset()
    return torch.empty(0, dtype=x.dtype, device=x.device).set_(x.untyped_storage(), start, (x.numel(),), (1,))


# ---- scalars --------------------------------------------------------------------------------------------------------


def _scalar_table(stages: Sequence[BoundStage], scalars: Sequence[StepScalars], device: torch.device) -> Tensor:
    """Return the scalar rows on a device, without copies from host memory.

    The number of entries per row is even, so that each row is aligned to 16 bytes.
    """
    columns = list(zip(*(pack(stages, item) for item in scalars), strict=True))
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
            f"{type(error).__name__}: {reason} On a GPU it needs Triton and a C compiler; engine='eager' does not.",
            RuntimeWarning,
        )
