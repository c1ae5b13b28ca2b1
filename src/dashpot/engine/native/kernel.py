"""A recipe's kernel: one compiled library for a recipe's structure and its tensors' dtypes, whatever its numbers."""

from __future__ import annotations

import ctypes
import dataclasses
from collections.abc import Hashable, Sequence
from functools import cache
from itertools import product
from typing import Any

import numpy as np
import torch

from dashpot.engine.native import build, cpp
from dashpot.engine.native.phases import traffic
from dashpot.engine.native.proof import Sample
from dashpot.engine.native.symbols import UntraceableError, kind_of
from dashpot.engine.native.trace import Layout, scalar_row, trace
from dashpot.engine.program import Numbers, Storage
from dashpot.errors import ArgumentError
from dashpot.recipe import Line, Recipe
from dashpot.stages.base import Clock, Stage

__all__ = ["Kernel", "check_hashable", "kernel_for", "structure"]

_MOST_VARIANTS = 4
_CLOCK = Clock(t=1, lr=1.0)


class Kernel:
    """The source of a recipe's kernels, and the library once it is built.

    A stage that is left out while its setting is zero, such as weight decay, makes two variants, with it and without:
    both are in the library, so that switching decay on or off compiles nothing.
    """

    def __init__(self, recipe: Recipe, storage: Storage, layout: Layout) -> None:
        self.slots = [key for key, _ in layout.slots]
        self.weight = str(layout.weight).removeprefix("torch.")
        self._storage, self._layout = storage, layout
        self._choices = _variants(recipe)
        self._proven: set[int] = set()
        slots = storage.slots(recipe)
        traces = [trace(_lines(recipe, active), slots, storage, layout, _CLOCK) for active in self._choices]
        self._records = [item.records for item in traces]
        self.source = cpp.source(traces, kind_of(layout.gradient), kind_of(layout.compute))
        self.bytes_per_element = traffic(traces[self._choices.index(_active(recipe))])
        self.failed: str | None = None
        """Why there is no library, once that is known."""
        self._build: build.Build | None = None
        self._library: ctypes.CDLL | None = None

    def ready(self) -> bool:
        """True once the library is loaded; looks into the cache and at a running compiler, and never waits."""
        if self._library is None:
            if self._build is None:
                self._library = build.loaded(self.source)
            elif self._build.ready():
                self._library = self._build.result()
        return self._library is not None

    def start(self) -> None:
        """Begin to compile beside the program, unless that has begun."""
        if self._build is None:
            self._build = build.start(self.source)

    def wait(self) -> None:
        """Compile, or wait for a compiler that runs. Raises `BuildError`."""
        if self._library is None:
            self._library = build.library(self.source)

    def step(self, recipe: Recipe, table: np.ndarray, scalars: Sequence[Numbers], threads: int) -> None:
        """Run one step on every row of `table`; its second column tells which of `scalars` a row takes.

        The addresses in `table` are followed as they are: whoever made it has checked them.
        """
        number = self._choices.index(_active(recipe))
        for item in scalars:
            _check_names(recipe.lines, item, self._records[number])
        rows = np.array([scalar_row(recipe.lines, item) for item in scalars], dtype=np.float64)
        _function(self._loaded(), f"step_{number}")(len(table), table.ctypes.data, rows.ctypes.data, threads)

    def proves(self, recipe: Recipe, numbers: Numbers) -> bool:
        """True where the kernel has shown, once for each variant, that it computes what the recipe's stages do."""
        number = self._choices.index(_active(recipe))
        if number not in self._proven and self.failed is None:
            sample = Sample(recipe, self._storage, self._layout)
            with torch.no_grad():
                expected = sample.stepped(recipe, numbers)
            self.step(recipe, sample.row(), [numbers], 1)
            if sample.agrees(expected):
                self._proven.add(number)
            else:
                self.failed = (
                    "A kernel does not compute what the stages of its recipe do: a stage may ask for the type of "
                    "what it is given, or the compiler is at fault; see docs/own-stage.md."
                )
        return number in self._proven

    def measure(self, table: np.ndarray, threads: int) -> tuple[float, bool]:
        """(sum of squares of all gradients in the table, whether every element is finite)."""
        out = np.zeros(2)
        _function(self._loaded(), "measure_gradients")(len(table), table.ctypes.data, out.ctypes.data, threads)
        return float(out[0]), bool(out[1] == 0)

    def _loaded(self) -> ctypes.CDLL:
        assert self._library is not None, "a kernel is used before it is ready"
        return self._library


def _check_names(lines: Sequence[Line], numbers: Numbers, records: Sequence[tuple[str, ...]]) -> None:
    """A kernel reads scalars by their places."""
    for line, values, names in zip(lines, numbers.scalars, records, strict=True):
        if values._fields != names:
            raise ArgumentError(
                f"{type(line.stage).__name__}: scalars must return the same scalars at every step, {', '.join(names)}; "
                f"got {', '.join(values._fields)}."
            )


def _function(library: ctypes.CDLL, name: str) -> Any:
    function = getattr(library, name)
    if function.argtypes is None:
        function.argtypes = [ctypes.c_int64, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64]
        function.restype = None
    return function


# ---- which kernel ---------------------------------------------------------------------------------------------------

_KERNELS: dict[Hashable, Kernel] = {}


def kernel_for(recipe: Recipe, storage: Storage, layout: Layout) -> Kernel:
    """The kernel for a recipe's structure; made once in a process. Raises `UntraceableError`."""
    key = structure(recipe), storage, layout
    check_hashable(key)
    if key not in _KERNELS:
        _KERNELS[key] = Kernel(recipe, storage, layout)
    return _KERNELS[key]


def check_hashable(key: Any) -> None:
    """Raise `UntraceableError` where a structure holds a setting that cannot be looked up, such as a list."""
    try:
        hash(key)
    except TypeError as error:
        raise UntraceableError(f"a stage with a setting of {error}") from error


def structure(recipe: Recipe) -> Hashable:
    """What a recipe's kernels depend on: its stages and their choices, but none of their numbers."""
    shape = tuple(_shape(stage) for stage in recipe.stages)
    return shape if len(_variants(recipe)) > 1 else (shape, _active(recipe))


def _shape(stage: Stage) -> Hashable:
    structural, numeric = _field_names(type(stage))
    return (
        type(stage),
        *(getattr(stage, name) for name in structural),
        *(getattr(stage, name) is None for name in numeric),
    )


@cache
def _field_names(kind: type[Stage]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    numeric = kind.numeric()
    names = (f.name for f in dataclasses.fields(kind))  # pyright: ignore[reportArgumentType] - every stage is one
    return tuple(name for name in names if name not in numeric), numeric


def _active(recipe: Recipe) -> tuple[bool, ...]:
    return tuple(not stage.idle() for stage in recipe.stages)


def _variants(recipe: Recipe) -> list[tuple[bool, ...]]:
    """The sets of active stages to compile: all that settings can bring about, unless they are many."""
    options = [(True, False) if type(stage).idle is not Stage.idle else (True,) for stage in recipe.stages]
    every = list(product(*options))
    return every if len(every) <= _MOST_VARIANTS else [_active(recipe)]


def _lines(recipe: Recipe, active: tuple[bool, ...]) -> tuple[Line, ...]:
    return tuple(Line.of(stage) for stage, on in zip(recipe.stages, active, strict=True) if on)
