"""Tracing: recording the operations of one step of a recipe by running the step on symbols."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import torch

from dashpot.engine import rounding
from dashpot.engine.native.symbols import Graph, Symbol, UntraceableError, kind_of
from dashpot.engine.program import DEFAULT_FORMAT, StorageFormat, one_step
from dashpot.engine.scalars import example_records, numeric_settings, unpack
from dashpot.engine.scalars import width as row_width
from dashpot.engine.stage_errors import find_stage_frame
from dashpot.recipes.recipe import BoundStage, Recipe
from dashpot.stages.base import Slot, Stage


class Layout(NamedTuple):
    """The compute precision of a kernel, and the dtypes of the weight, of the gradient and, by key, of the slots."""

    compute: torch.dtype
    weight: torch.dtype
    gradient: torch.dtype
    slots: tuple[tuple[str, torch.dtype], ...]


class Trace(NamedTuple):
    """The operations of one step.

    Args:
        arrays: New values of `w` and of the elementwise slots, by key. Unchanged values are omitted.
        per_tensor: New values of the per-tensor slots, by key. Unchanged values are omitted.
        kinds: Kinds of `w`, `g` and all slots, by key.
        scalars: Number of entries in the scalar row.
        record_fields: For each stage, the names of its scalars.
        operations: All operations and constants, in the order in which they were recorded.
        prepared: Whether `g` is the gradient after scaling and clipping, in the compute precision. Kernels then scale
            and clip separately from the other operations, because most steps require neither scaling nor clipping.
    """

    arrays: Mapping[str, Symbol]
    per_tensor: Mapping[str, Symbol]
    kinds: Mapping[str, str]
    scalars: int
    record_fields: tuple[tuple[str, ...], ...]
    operations: tuple[Any, ...]
    prepared: bool


def trace(stages: Sequence[BoundStage], slots: Sequence[Slot], storage: StorageFormat, layout: Layout) -> Trace:
    """Record one step by running it on symbols.

    The step is run twice to detect random constants, because a kernel would reuse their values at every step.

    Args:
        stages: The active stages.
        slots: All slots of a parameter, including those of inactive stages.
        storage: Storage format of the weight and the state.
        layout: Dtypes of the weight, the gradient and the slots.

    Raises:
        UntraceableError: If a kernel cannot perform the step.
    """
    try:
        first, second = (_trace(stages, slots, storage, layout) for _ in range(2))
    except UntraceableError as error:
        error.frame = error.frame or find_stage_frame(error)
        raise
    except Exception as error:  # the eager engine reports the errors of stages
        raise UntraceableError(f"{type(error).__name__}: {error}", frame=find_stage_frame(error)) from error
    if first.operations != second.operations:
        raise UntraceableError(
            "a stage with a non-deterministic constant",
            "draw no random numbers in a stage, and make every changing number a setting",
        )
    return first


def trace_float32(recipe: Recipe, *, active: bool) -> Trace | None:
    """Trace all stages or only the active stages of a recipe in float32 to inspect them. Return None on failure."""
    stages = recipe.bound_stages if active else [BoundStage.of(stage) for stage in recipe.stages]
    dtype = torch.float32
    layout = Layout(dtype, dtype, dtype, tuple((slot.key, dtype) for slot in recipe.slots))
    try:
        return trace(stages, recipe.slots, DEFAULT_FORMAT, layout)
    except UntraceableError:
        return None


def _trace(stages: Sequence[BoundStage], slots: Sequence[Slot], storage: StorageFormat, layout: Layout) -> Trace:
    graph = Graph()
    kinds = {"w": kind_of(layout.weight), "g": kind_of(layout.gradient)}
    kinds |= {key: kind_of(dtype) for key, dtype in layout.slots}
    per_tensor = {slot.key for slot in slots if slot.shape == "per_tensor"}
    loads = {
        key: graph.node("single" if key in per_tensor else "load", (key,), kind, vector=key not in per_tensor)
        for key, kind in kinds.items()
    }
    records = example_records(stages)
    for bound, record in zip(stages, records, strict=True):
        _check_scalars(bound.stage, record._asdict())
    width = row_width(stages, records)
    row = (graph.node("scalar", (number,), "number", vector=False) for number in range(width))
    symbolic, scalars = unpack(stages, records, row)
    if storage.is_stochastic:
        scalars = scalars._replace(rng_key=_tensor_key(graph, scalars.rng_key))
    prepared = _is_prepared(layout, per_tensor)
    if prepared:
        scalars = scalars._replace(scale=1.0, clip_value=None)
        loads["g"] = graph.node("load", ("g",), kind_of(layout.compute), vector=True)
    state = {key: loads[key] for key, _ in layout.slots}
    index = graph.node("index", (), "i32", vector=True)
    new, kept = one_step(symbolic, storage, layout.compute, scalars, loads["w"], loads["g"], state, index)  # pyright: ignore[reportArgumentType]
    results = {key: graph.symbol(value) for key, value in {"w": new, **kept}.items()}
    for key, value in results.items():
        _check_result(key, value, kinds[key], vector=key not in per_tensor)
    changed = {key: value for key, value in results.items() if value is not loads[key]}
    return Trace(
        {key: value for key, value in changed.items() if key not in per_tensor},
        {key: value for key, value in changed.items() if key in per_tensor},
        kinds,
        width,
        tuple(record._fields for record in records),
        graph.operations(),
        prepared,
    )


def _is_prepared(layout: Layout, per_tensor: Collection[str]) -> bool:
    """Check whether gradients are scaled and clipped before the loop.

    This is the case if gradients have the compute precision, or if all arrays are bfloat16.
    """
    arrays = [layout.weight, layout.gradient, *(dtype for key, dtype in layout.slots if key not in per_tensor)]
    return layout.gradient == layout.compute or set(arrays) == {torch.bfloat16}


def _check_scalars(stage: Stage, scalars: Mapping[str, Any]) -> None:
    settings = {name: getattr(stage, name) for name in numeric_settings(stage)}
    for where, values in ((".scalars", scalars), ("", settings)):
        for name, value in values.items():
            if not (isinstance(value, (int, float)) or (isinstance(value, torch.Tensor) and value.numel() == 1)):
                what = f"{type(stage).__name__}{where}: {name}={value!r}"
                raise UntraceableError(what, "make every scalar a number")


def _check_result(key: str, value: Symbol, kind: str, *, vector: bool) -> None:
    if value.kind != kind:
        raise UntraceableError(f"{key} of kind {value.kind}, stored as {kind}")
    if value.vector and not vector:
        raise UntraceableError(f"a per-tensor slot {key} with one value per element")


def _tensor_key(graph: Graph, rng_key: Symbol) -> Any:
    """Combine the RNG key of the step with the stream number of the tensor, which kernels read from the table row."""
    seed = graph.node("cast", (rng_key,), "i32", vector=False)
    return rounding.stream(seed, graph.node("ordinal", (), "i32", vector=False))  # pyright: ignore[reportArgumentType]
