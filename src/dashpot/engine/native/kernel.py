"""A recipe's kernel: one compiled library for a recipe's structure and its tensors' dtypes, whatever its numbers."""

from __future__ import annotations

import ctypes
import dataclasses
from array import array
from collections.abc import Callable, Hashable, Iterable, Sequence
from functools import cache, partial
from itertools import chain, product
from typing import Any

import numpy as np
import torch

from dashpot.engine.native import build, cpp, interface
from dashpot.engine.native.build import BuildError
from dashpot.engine.native.kernel_check import Sample
from dashpot.engine.native.passes import traffic
from dashpot.engine.native.symbols import UntraceableError, kind_of
from dashpot.engine.native.trace import Layout, scalar_row, trace
from dashpot.engine.program import StepScalars, StorageFormat
from dashpot.errors import ArgumentError
from dashpot.recipes.recipe import BoundStage, Recipe
from dashpot.stages.base import Clock, Stage
from dashpot.utils.warn import warn

__all__ = ["Kernel", "active_stages", "check_hashable", "kernel_for", "packed", "structure"]

_MOST_VARIANTS = 4
_I, _P = ctypes.c_int64, ctypes.c_void_p
_RUN = None, (_I, _P, _P, _I)
_LOOK = _I, (_P, _I, _I, _P, _P, _P, _P, _P, _P, _I, _I, _P, _P)
_CLOCK = Clock(t=1, lr=1.0)


class Kernel:
    """The source of a recipe's kernels, and the library once it is built.

    A stage that is left out while its setting is zero, such as weight decay, makes two variants, with it and without:
    both are in the library, so that switching decay on or off compiles nothing.
    """

    def __init__(self, recipe: Recipe, storage: StorageFormat, layout: Layout) -> None:
        self.slots = [key for key, _ in layout.slots]
        self.weight = str(layout.weight).removeprefix("torch.")
        self._storage, self._layout = storage, layout
        self._choices = _variants(recipe)
        self._proven: set[int] = set()
        slots = storage.slots(recipe)
        traces = [trace(_lines(recipe, active), slots, storage, layout, _CLOCK) for active in self._choices]
        self._records = [item.records for item in traces]
        self.source = cpp.source(traces, kind_of(layout.gradient), kind_of(layout.compute))
        self.bytes_per_element = traffic(traces[self._choices.index(active_stages(recipe))])
        self.failed: str | None = None
        """Why there is no library, once that is known."""
        self._library: ctypes.CDLL | None = None
        self._functions: dict[str, Any] = {}
        self._torch = 0

    def ready(self) -> bool:
        """True once the library is loaded, compiled now if need be; where it cannot be, `failed` says why."""
        if self._library is None and self.failed is None:
            try:
                self._torch = ctypes.addressof(interface.functions())
                self._library = build.library(self.source)
            except BuildError as error:
                self.fail(str(error))
        return self.failed is None

    def fail(self, reason: str) -> None:
        """Use this kernel no more; says so once."""
        self.failed = reason
        _warn_once(reason)

    def looker(self) -> Callable[..., int]:
        """`look` of tables.h, without its first argument."""
        return partial(self._function("look", _LOOK), self._torch)

    def runner(self, active: tuple[bool, ...]) -> Callable[[int, int, int, int], None]:
        """The function that steps a table, for a set of active stages.

        It takes the number of rows and the addresses of the table, whose second column tells which scalars a row takes,
        and of the scalars; then the number of threads. The addresses in the table are followed as they are: whoever
        made it has checked them.
        """
        return self._function(f"step_{self._choices.index(active)}", _RUN)

    def check(self, recipe: Recipe, active: tuple[bool, ...], step_scalars: StepScalars) -> None:
        """Raise `ArgumentError` where a stage's scalars are not those that the kernel was written for; at the first
        step of each variant compare it with the stages, too, after which it may have `failed`."""
        number = self._choices.index(active)
        _check_names(recipe.bound_stages, step_scalars, self._records[number])
        if number in self._proven:
            return
        sample = Sample(recipe, self._storage, self._layout)
        try:
            with torch.no_grad():
                expected = sample.stepped(recipe, step_scalars)
        except Exception as error:
            self.fail(f"A stage raises {type(error).__name__} on {len(sample.w)} random numbers: {error}")
            return
        table, scalars = sample.row(), packed([scalar_row(recipe.bound_stages, step_scalars)])
        self.runner(active)(1, table.ctypes.data, scalars.buffer_info()[0], 1)
        if sample.agrees(expected):
            self._proven.add(number)
        else:
            names = ", ".join(type(line.stage).__name__ for line in recipe.bound_stages)
            self.fail(
                f"A kernel does not compute what the stages of its recipe do ({names}): a stage may ask for the type "
                "of what it is given, or the compiler is at fault; see docs/own-stage.md."
            )

    def measure(self, table: np.ndarray, threads: int) -> tuple[float, bool]:
        """(sum of squares of all gradients in the table, whether every element is finite)."""
        out = np.zeros(2)
        self._function("measure_gradients", _RUN)(len(table), table.ctypes.data, out.ctypes.data, threads)
        return float(out[0]), bool(out[1] == 0)

    def _function(self, name: str, signature: tuple[Any, Any]) -> Any:
        if name not in self._functions:
            assert self._library is not None, "a kernel is used before it is ready"
            function = self._library[name]
            function.restype, function.argtypes = signature
            self._functions[name] = function
        return self._functions[name]


def packed(rows: Iterable[Iterable[Any]]) -> array[float]:
    """Rows of scalars as a kernel reads them."""
    return array("d", chain.from_iterable(rows))


def _check_names(lines: Sequence[BoundStage], step_scalars: StepScalars, records: Sequence[tuple[str, ...]]) -> None:
    """A kernel reads scalars by their places."""
    for line, values, names in zip(lines, step_scalars.stages, records, strict=True):
        if values._fields != names:
            raise ArgumentError(
                f"{type(line.stage).__name__}: scalars must return the same scalars at every step, {', '.join(names)}; "
                f"got {', '.join(values._fields)}."
            )


# ---- which kernel ---------------------------------------------------------------------------------------------------

_KERNELS: dict[Hashable, Kernel | UntraceableError] = {}


def kernel_for(recipe: Recipe, storage: StorageFormat, layout: Layout) -> Kernel:
    """The kernel for a recipe's structure; made once in a process. Raises `UntraceableError`."""
    key = structure(recipe), storage, layout, torch.get_default_dtype()  # of what torch makes of Python numbers
    check_hashable(key)
    if key not in _KERNELS:
        try:
            _KERNELS[key] = Kernel(recipe, storage, layout)
        except UntraceableError as error:
            _KERNELS[key] = error.with_traceback(None)
    found = _KERNELS[key]
    if isinstance(found, UntraceableError):
        raise found.with_traceback(None)
    return found


def check_hashable(key: Any) -> None:
    """Raise `UntraceableError` where a structure holds a setting that cannot be looked up, such as a list."""
    try:
        hash(key)
    except TypeError as error:
        what = f"a stage with a setting of {error}"
        raise UntraceableError(what, "make every setting a number, a string or a tuple of them") from error


def structure(recipe: Recipe) -> Hashable:
    """What a recipe's kernels depend on: its stages and their choices, but none of their numbers."""
    shape = tuple(_shape(stage) for stage in recipe.stages)
    return shape if len(_variants(recipe)) > 1 else (shape, active_stages(recipe))


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


def active_stages(recipe: Recipe) -> tuple[bool, ...]:
    """Which stages of a recipe do something with their present settings."""
    return tuple(not stage.is_noop() for stage in recipe.stages)


def _variants(recipe: Recipe) -> list[tuple[bool, ...]]:
    """The sets of active stages to compile: all that settings can bring about, unless they are many."""
    options = [(True, False) if type(stage).is_noop is not Stage.is_noop else (True,) for stage in recipe.stages]
    every = list(product(*options))
    return every if len(every) <= _MOST_VARIANTS else [active_stages(recipe)]


def _lines(recipe: Recipe, active: tuple[bool, ...]) -> tuple[BoundStage, ...]:
    return tuple(BoundStage.of(stage) for stage, on in zip(recipe.stages, active, strict=True) if on)


# ---- what users are told --------------------------------------------------------------------------------------------

_warned: set[str] = set()


def _warn_once(reason: str) -> None:
    if reason not in _warned:
        _warned.add(reason)
        warn(f"dashpot runs its slower eager engine, with the same results. {reason}", RuntimeWarning)
