"""From a recipe to the operations of one step, by running the step on symbols."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple, cast

import torch

from dashpot.engine import rounding
from dashpot.engine.native.symbols import Graph, Symbol, UntraceableError, kind_of
from dashpot.engine.program import StepScalars, StorageFormat, one_step
from dashpot.engine.stage_errors import find_stage_frame
from dashpot.recipes.recipe import BoundStage
from dashpot.stages.base import Clock, Slot, Stage

__all__ = ["LIMIT", "SCALE", "Layout", "Trace", "scalar_row", "set_numbers", "trace", "with_settings"]


class Layout(NamedTuple):
    """The dtypes a kernel is written for: compute precision, weight, gradient, and every slot by key."""

    compute: torch.dtype
    weight: torch.dtype
    gradient: torch.dtype
    slots: tuple[tuple[str, torch.dtype], ...]


class Trace(NamedTuple):
    """The operations of one step: the new value of every array (`w` and the elementwise slots) and per-tensor slot."""

    arrays: Mapping[str, Symbol]
    singles: Mapping[str, Symbol]
    kinds: Mapping[str, str]
    scalars: int
    records: tuple[tuple[str, ...], ...]
    """The names of every stage's own scalars."""
    text: tuple[Any, ...]
    """The operations and constants in the order of their making."""
    prepared: bool
    """Whether `g` stands for the gradient after `scale` and `limit`, in the compute precision. Nearly always the scale
    is 1 and there is no limit: a kernel then leaves both out of its loop."""


_LEADING = 5  # scale, limit, word, lr, factor
SCALE, LIMIT = 0, 1
"""The places of the gradient's scale and of the limit of `clip_value` among the scalars."""


def scalar_row(lines: Sequence[BoundStage], step_scalars: StepScalars) -> list[Any]:
    """The numbers of a step, some perhaps 0-d tensors, in the order in which a kernel reads them."""
    limit = math.inf if step_scalars.clip_value is None else step_scalars.clip_value
    row = [step_scalars.scale, limit, step_scalars.rng_key, step_scalars.clock.lr, step_scalars.clock.factor]
    for line, values in zip(lines, step_scalars.stages, strict=True):
        row += values
        row += line.settings
    return row


def trace(
    lines: Sequence[BoundStage], slots: Sequence[Slot], storage: StorageFormat, layout: Layout, clock: Clock
) -> Trace:
    """Run one step on symbols. Raises `UntraceableError` for what a kernel cannot hold.

    `clock` is that of any step: which scalars there are is read from the stages, not their values. Two runs must say
    the same: a kernel would repeat for ever what a stage drew at random while it was traced.
    """
    try:
        first, second = (_trace(lines, slots, storage, layout, clock) for _ in range(2))
    except UntraceableError as error:
        error.place = error.place or find_stage_frame(error)
        raise
    except Exception as error:  # a stage may do anything; the eager engine will show the error if it is one
        raise UntraceableError(f"{type(error).__name__}: {error}", place=find_stage_frame(error)) from error
    if first.text != second.text:
        what = "a stage that computes with a number that is another one each time"
        raise UntraceableError(what, "draw no random numbers in a stage, and make what changes a setting")
    return first


def _trace(
    lines: Sequence[BoundStage], slots: Sequence[Slot], storage: StorageFormat, layout: Layout, clock: Clock
) -> Trace:
    graph = Graph()
    kinds = {"w": kind_of(layout.weight), "g": kind_of(layout.gradient)}
    kinds |= {key: kind_of(dtype) for key, dtype in layout.slots}
    single = {slot.key for slot in slots if slot.shape == "per_tensor"}
    loads = {
        key: graph.node("single" if key in single else "load", (key,), kind, vector=key not in single)
        for key, kind in kinds.items()
    }
    count = _Counter(graph)
    scale, limit, rng_key, lr, factor = (
        cast(Any, count.next()) for _ in range(_LEADING)
    )  # symbols act as numbers here
    symbolic, scalars = [], []
    for line in lines:
        names = line.stage.prepare(clock)
        _check_numbers(line.stage, names._asdict())
        scalars.append(type(names)(*(count.next() for _ in names)))
        fields = {name: count.next() for name in set_numbers(line.stage)}
        symbolic.append(line._replace(stage=with_settings(line.stage, fields)))
    if storage.is_stochastic:
        rng_key = _tensor_word(graph, rng_key)
    prepared = _prepared(layout, single)
    if prepared:
        scale, limit = 1.0, None
        loads["g"] = graph.node("load", ("g",), kind_of(layout.compute), vector=True)
    step_scalars = StepScalars(Clock(None, lr, factor), tuple(scalars), scale, limit, rng_key)
    state = {key: loads[key] for key, _ in layout.slots}
    index = graph.node("index", (), "i32", vector=True)
    new, kept = one_step(symbolic, storage, layout.compute, step_scalars, loads["w"], loads["g"], state, index)  # pyright: ignore[reportArgumentType]
    results = {key: graph.symbol(value) for key, value in {"w": new, **kept}.items()}
    for key, value in results.items():
        _check(key, value, kinds[key], vector=key not in single)
    changed = {key: value for key, value in results.items() if value is not loads[key]}
    return Trace(
        {key: value for key, value in changed.items() if key not in single},
        {key: value for key, value in changed.items() if key in single},
        kinds,
        count.total,
        tuple(record._fields for record in scalars),
        graph.text(),
        prepared,
    )


def _prepared(layout: Layout, single: Collection[str]) -> bool:
    """Whether a loop takes a gradient with its scale and limit applied: in the compute precision, or all bfloat16."""
    arrays = [layout.weight, layout.gradient, *(dtype for key, dtype in layout.slots if key not in single)]
    return layout.gradient == layout.compute or set(arrays) == {torch.bfloat16}


def _check_numbers(stage: Stage, scalars: Mapping[str, Any]) -> None:
    settings = {name: getattr(stage, name) for name in set_numbers(stage)}
    for where, values in ((".scalars", scalars), ("", settings)):
        for name, value in values.items():
            if not (isinstance(value, (int, float)) or (isinstance(value, torch.Tensor) and value.numel() == 1)):
                what = f"{type(stage).__name__}{where}: {name}={value!r}"
                raise UntraceableError(what, "make every scalar a number")


def _check(key: str, value: Symbol, kind: str, *, vector: bool) -> None:
    if value.kind != kind:
        raise UntraceableError(f"{key} of kind {value.kind} where {kind} is kept")
    if value.vector and not vector:
        raise UntraceableError(f"{key}, one number per tensor, set to one per element")


class _Counter:
    """Numbers the scalars in the order of `scalar_row`."""

    def __init__(self, graph: Graph) -> None:
        self._graph, self.total = graph, 0

    def next(self) -> Symbol:
        self.total += 1
        return self._graph.node("scalar", (self.total - 1,), "number", vector=False)


def set_numbers(stage: Stage) -> list[str]:
    """The numeric settings that are set: a stage may read them from itself instead of from its scalars."""
    return [name for name in stage.numeric() if getattr(stage, name) is not None]


def with_settings(stage: Stage, values: Mapping[str, Any]) -> Stage:
    """A stage that reads other values where it reads its own numbers, so that none is written into a kernel.

    What a stage keeps beside its fields is left out, as it may follow from them.
    """
    double = object.__new__(type(stage))
    for field in dataclasses.fields(stage):  # pyright: ignore[reportArgumentType] - every stage is a dataclass
        object.__setattr__(double, field.name, values.get(field.name, getattr(stage, field.name)))
    return double


def _tensor_word(graph: Graph, rng_key: Symbol) -> Any:
    """The step's word, mixed with the tensor's number, which every row of a kernel's table carries."""
    seed = graph.node("cast", (rng_key,), "i32", vector=False)
    return rounding.stream(seed, graph.node("ordinal", (), "i32", vector=False))  # pyright: ignore[reportArgumentType]
