"""Kernels: one compiled library per recipe structure and combination of dtypes, for all values of the settings."""

from __future__ import annotations

import ctypes
import dataclasses
from collections.abc import Callable, Hashable, Sequence
from functools import cache, partial
from itertools import product
from typing import Any

import numpy as np
import torch

from dashpot.engine.native import build, cpp, interface
from dashpot.engine.native.build import BuildError
from dashpot.engine.native.kernel_check import Sample
from dashpot.engine.native.passes import traffic
from dashpot.engine.native.symbols import UntraceableError, kind_of
from dashpot.engine.native.trace import Layout, trace
from dashpot.engine.program import StepScalars, StorageFormat
from dashpot.engine.scalars import pack, to_buffer
from dashpot.errors import ArgumentError
from dashpot.recipes.recipe import BoundStage, Recipe
from dashpot.stages.base import Stage
from dashpot.utils.warn import warn

_MAX_VARIANTS = 4
_I, _P = ctypes.c_int64, ctypes.c_void_p
_STEP_SIGNATURE = None, (_I, _P, _P, _I)
_CHECK_SIGNATURE = _I, (_P, _I, _I, _P, _P, _P, _P, _P, _P, _I, _I, _P, _P)


class Kernel:
    """The source of a recipe's kernels and, once built, their library.

    A stage that is a no-op for some settings, such as zero weight decay, results in two variants. The library contains
    both, so that enabling or disabling the stage does not cause a recompilation.

    Args:
        recipe: The recipe. The kernel depends only on the structure and the active stages of the recipe.
        storage: Storage format of the weight and the state.
        layout: Dtypes of the weight, the gradient and the slots.

    Raises:
        UntraceableError: If a stage cannot be traced.
    """

    def __init__(self, recipe: Recipe, storage: StorageFormat, layout: Layout) -> None:
        self.slots = [key for key, _ in layout.slots]
        self.weight = str(layout.weight).removeprefix("torch.")
        self._storage, self._layout = storage, layout
        self._variants = _variants(recipe)
        self._verified: set[int] = set()
        slots = storage.slots(recipe)
        traces = [trace(_bound(recipe, active), slots, storage, layout) for active in self._variants]
        self._record_fields = [item.record_fields for item in traces]
        self.source = cpp.source(traces, kind_of(layout.gradient), kind_of(layout.compute))
        self.bytes_per_element = traffic(traces[self._variants.index(active_stages(recipe))])
        self.failed: str | None = None
        """The reason why the kernel is not used, or None if the kernel is used or has not been built yet."""
        self._library: ctypes.CDLL | None = None
        self._functions: dict[str, Any] = {}
        self._torch = 0

    def ready(self) -> bool:
        """Load or compile the library; if that fails, set `failed` and return False."""
        if self._library is None and self.failed is None:
            try:
                self._torch = ctypes.addressof(interface.functions())
                self._library = build.library(self.source)
            except BuildError as error:
                self.fail(str(error))
        return self.failed is None

    def fail(self, reason: str) -> None:
        """Disable this kernel, and warn once for each reason."""
        self.failed = reason
        _warn_once(reason)

    def check_function(self) -> Callable[..., int]:
        """Return the C++ function `look` of `tables.h` with its first argument bound."""
        return partial(self._function("look", _CHECK_SIGNATURE), self._torch)

    def step_function(self, active: tuple[bool, ...]) -> Callable[[int, int, int, int], None]:
        """Return the function that steps all tensors of a table, for a set of active stages.

        The arguments of the returned function are the number of rows, the address of the table, the address of the
        scalar rows, and the number of threads. The second column of the table contains the index of each tensor's
        scalar row. Addresses are not checked.
        """
        return self._function(f"step_{self._variants.index(active)}", _STEP_SIGNATURE)

    def verify(self, recipe: Recipe, active: tuple[bool, ...], step_scalars: StepScalars) -> None:
        """Check the names of the stages' scalars and, before the first step of a variant, the results of the kernel.

        If the results of the kernel differ from the results of the stages, `failed` is set.

        Raises:
            ArgumentError: If the names of a stage's scalars differ from their names at the first step.
        """
        number = self._variants.index(active)
        _check_fields(recipe.bound_stages, step_scalars, self._record_fields[number])
        if number in self._verified:
            return
        sample = Sample(recipe, self._storage, self._layout)
        try:
            with torch.no_grad():
                expected = sample.eager_step(recipe, step_scalars)
        except Exception as error:
            self.fail(f"A stage raises {type(error).__name__} on {len(sample.w)} random elements: {error}")
            return
        table, scalars = sample.row(), to_buffer([pack(recipe.bound_stages, step_scalars)])
        self.step_function(active)(1, table.ctypes.data, scalars.buffer_info()[0], 1)
        if sample.matches(expected):
            self._verified.add(number)
        else:
            names = ", ".join(type(bound.stage).__name__ for bound in recipe.bound_stages)
            self.fail(
                f"A kernel disagrees with the stages of its recipe ({names}): a stage may branch on the type of its "
                "input, or the compiler may have a bug; see docs/own-stage.md."
            )

    def measure(self, table: np.ndarray, threads: int) -> tuple[float, bool]:
        """Return the sum of squares of all gradients in a table, and whether all gradient elements are finite."""
        out = np.zeros(2)
        self._function("measure_gradients", _STEP_SIGNATURE)(len(table), table.ctypes.data, out.ctypes.data, threads)
        return float(out[0]), bool(out[1] == 0)

    def _function(self, name: str, signature: tuple[Any, Any]) -> Any:
        if name not in self._functions:
            assert self._library is not None, "the kernel must be ready"
            function = self._library[name]
            function.restype, function.argtypes = signature
            self._functions[name] = function
        return self._functions[name]


def _check_fields(stages: Sequence[BoundStage], scalars: StepScalars, fields: Sequence[tuple[str, ...]]) -> None:
    """Raise `ArgumentError` if the names of scalars have changed, because kernels read scalars by position."""
    for bound, values, names in zip(stages, scalars.stages, fields, strict=True):
        if values._fields != names:
            raise ArgumentError(
                f"{type(bound.stage).__name__}: scalars must return the same names at every step, {', '.join(names)}; "
                f"got {', '.join(values._fields)}."
            )


# ---- lookup ---------------------------------------------------------------------------------------------------------

_KERNELS: dict[Hashable, Kernel | UntraceableError] = {}


def kernel_for(recipe: Recipe, storage: StorageFormat, layout: Layout) -> Kernel:
    """Return the kernel for a recipe's structure. Each kernel is created once per process.

    Raises:
        UntraceableError: If a stage cannot be traced.
    """
    key = structure(recipe), storage, layout, torch.get_default_dtype()  # affects type promotion of Python numbers
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
    """Raise `UntraceableError` if a structure contains an unhashable setting, such as a list."""
    try:
        hash(key)
    except TypeError as error:
        hint = "make every setting a number, a string or a tuple of them"
        raise UntraceableError(f"a stage with a setting of {error}", hint) from error


def structure(recipe: Recipe) -> Hashable:
    """Return the stages with their non-numeric settings, which is the part of a recipe that its kernels depend on."""
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
    """Return, for each stage, whether it is active, that is, not a no-op with its current settings."""
    return tuple(not stage.is_noop() for stage in recipe.stages)


def _variants(recipe: Recipe) -> list[tuple[bool, ...]]:
    """Return the sets of active stages to compile: all possible sets, or the current set if there are too many."""
    options = [(True, False) if type(stage).is_noop is not Stage.is_noop else (True,) for stage in recipe.stages]
    every = list(product(*options))
    return every if len(every) <= _MAX_VARIANTS else [active_stages(recipe)]


def _bound(recipe: Recipe, active: tuple[bool, ...]) -> tuple[BoundStage, ...]:
    return tuple(BoundStage.of(stage) for stage, on in zip(recipe.stages, active, strict=True) if on)


# ---- warnings -------------------------------------------------------------------------------------------------------

_warned: set[str] = set()


def _warn_once(reason: str) -> None:
    if reason not in _warned:
        _warned.add(reason)
        warn(f"dashpot runs its slower eager engine, with the same results. {reason}", RuntimeWarning)
