"""Dry run of custom stages on copies of a parameter, before a step writes anything.

Mistakes in `apply` and `observe` would otherwise raise a Python error in the middle of a step, or silently modify the
gradient. The stages of dashpot are not checked, because its tests cover them.
"""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from copy import copy
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dashpot._torch_private import write_count
from dashpot.engine.eager import real_view
from dashpot.engine.native.kernel import structure
from dashpot.engine.native.trace import trace_float32
from dashpot.engine.program import WHOLE_TENSOR, WholeTensor, compute_dtype
from dashpot.engine.stage_errors import is_custom_stage, wrap_stage_errors
from dashpot.errors import ArgumentError
from dashpot.recipes.recipe import BoundStage, Recipe
from dashpot.stages.base import Clock, Observation, Signal, Slot, Stage

_MAX_ELEMENTS = 1 << 14  # maximum size of a parameter in a dry run; larger parameters are cropped
_MAX_CACHED = 1 << 12

_passed: set[Hashable] = set()


def dry_run_stages(recipe: Recipe, p: Tensor, grad: Tensor | None = None) -> None:
    """Run a recipe with custom stages once on copies of a parameter, and check the results of every stage.

    There is one dry run for each combination of recipe structure, dtype and device. A recipe that cannot be compiled
    may depend on the shape of the parameter, so there is also a separate dry run for each shape.

    Args:
        recipe: The recipe. If it has no custom stages, nothing is run.
        p: The parameter, or its local tensor if it is a DTensor.
        grad: The gradient of the parameter; ones by default.

    Raises:
        ArgumentError: If a custom stage is invalid.
    """
    if not any(map(is_custom_stage, map(type, recipe.active()))):
        return
    if torch.compiler.is_compiling() or p.numel() == 0 or p.device.type == "meta":
        return
    any_shape = structure(recipe), p.dtype, p.device
    this_shape = *any_shape, tuple(p.shape)
    is_hashable = _is_hashable(any_shape)
    if is_hashable and not _passed.isdisjoint((any_shape, this_shape)):
        return
    with _isolated(p.device):
        _run_cropped(recipe, p.detach(), torch.ones_like(p) if grad is None else grad.detach())
        if is_hashable:
            if len(_passed) >= _MAX_CACHED:
                _passed.clear()
            _passed.add(any_shape if trace_float32(recipe, active=True) else this_shape)


def _is_hashable(key: Hashable) -> bool:
    try:
        hash(key)
    except TypeError:  # an unhashable setting, such as a list
        return False
    return True


@contextmanager
def _isolated(device: torch.device) -> Iterator[None]:
    """Disable autograd, and restore the state of the random number generators on exit."""
    states = random.getstate(), np.random.get_state()
    devices = [device] if device.type == "cuda" else []
    try:
        with torch.inference_mode(False), torch.no_grad(), torch.random.fork_rng(devices):
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])


def _run_cropped(recipe: Recipe, p: Tensor, grad: Tensor) -> None:
    """Run on a crop of a large parameter. If that fails, run on all of it, because a stage may depend on the shape."""
    w, g = _working(p, p), _working(grad, p)
    sizes = _cropped_sizes(w.shape)
    try:
        _run(recipe, _crop(w, sizes), _crop(g, sizes), p)
    except ArgumentError:
        if sizes == list(w.shape):
            raise
        _run(recipe, w.clone(), g.clone(), p)


def _working(x: Tensor, p: Tensor) -> Tensor:
    """Convert `x` to a real, at least 1-d tensor in the compute precision of `p`, as the engine does before stages."""
    real = real_view(x.resolve_conj())
    return (real.reshape(1) if real.dim() == 0 else real).to(compute_dtype(p.dtype))


def _cropped_sizes(shape: torch.Size) -> list[int]:
    sizes = list(shape)
    while math.prod(sizes) > _MAX_ELEMENTS:
        longest = sizes.index(max(sizes))
        sizes[longest] = (sizes[longest] + 1) // 2
    return sizes


def _crop(x: Tensor, sizes: list[int]) -> Tensor:
    for dim, size in enumerate(sizes):
        x = x.narrow(dim, 0, size)
    return x.clone(memory_format=torch.contiguous_format)


def _run(recipe: Recipe, w: Tensor, g: Tensor, p: Tensor) -> None:
    g = g.nan_to_num(0.0, 0.0, 0.0)  # steps with nonfinite gradients may be skipped, so stages need not support them
    clock = Clock(1, _clone(recipe.lr))
    x = Signal(w=w, g=g, d=1.0, v=g, rate=clock.lr, shrink=None)
    for bound_stage in recipe.bound_stages:
        x = _StageRun(bound_stage, clock, p).run(x)


def _clone(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value


class _StageRun:
    """The dry run of one stage."""

    def __init__(self, bound_stage: BoundStage, clock: Clock, p: Tensor) -> None:
        self._p = p
        self._stage = _copy_tensors(bound_stage.stage)
        self._name = type(bound_stage.stage).__name__
        self._slots: tuple[Slot, ...] = tuple(self._stage.slots)
        self._clock, self._state_type = clock, bound_stage.state_type
        self._context = _Context(self._name)

    def run(self, x: Signal) -> Signal:
        """Run the stage on signal `x`, check its results, and return the signal after the stage."""
        scalars = self._call(self._stage.scalars, self._clock)
        if not isinstance(scalars, Mapping):
            raise self._error(f"scalars must return a mapping from names to numbers, got {_describe(scalars)}")
        c = self._call(self._stage.prepare, self._clock)
        state = [self._slot(slot, x.w) for slot in self._slots]
        if not is_custom_stage(type(self._stage)):
            return self._call(self._stage.apply, x, self._state_type(*state), c, WHOLE_TENSOR)[0]
        names = {name: _clone(value) for name, value in c._asdict().items()}
        c = _strict(self._name, type(c), self._no_scalar)(**names)
        s = _strict(self._name, self._state_type, self._no_slot)(*state)
        if self._stage.observes:
            s = self._observed(x, s, c)
        return self._applied(_strict(self._name, Signal, self._no_field)(*x), s, c)

    def _slot(self, slot: Slot, w: Tensor) -> Tensor:
        shape = w.shape if slot.shape == "elementwise" else ()
        return torch.full(shape, float(slot.initial), dtype=w.dtype, device=w.device)

    def _observed(self, x: Signal, s: Any, c: Any) -> Any:
        o = _strict(self._name, Observation, self._no_observation)(torch.ones_like(x.w), x.g.clone(), self._p.dim())
        with self._unchanged("observe", o=o, s=s, c=c):
            new = self._call(self._stage.observe, o, s, c, self._context)
        self._check_slots("observe", "s", new, new, x.w)
        return type(s)(*new)

    def _applied(self, x: Signal, s: Any, c: Any) -> Signal:
        with self._unchanged("apply", x=x, s=s, c=c):
            result = self._call(self._stage.apply, x, s, c, self._context)
        if not (isinstance(result, tuple) and len(result) == 2 and isinstance(result[0], Signal)):
            got = "x alone" if isinstance(result, Signal) else _describe(result)
            raise self._error(f"apply must return the pair (x, s), got {got}")
        self._check_slots("apply", "the pair (x, s)", result, result[1], x.w)
        self._check_signal(result[0], x.w)
        return Signal(*result[0])

    # ---- checks -----------------------------------------------------------------------------------------------------

    def _call(self, method: Callable[..., Any], *args: Any) -> Any:
        """Call a method of the stage; convert exceptions to `ArgumentError`."""
        try:
            with wrap_stage_errors(self._p.shape):
                return method(*args)
        except _UndeclaredError as error:
            raise ArgumentError(str(error)) from error
        except TypeError as error:  # raised by the call itself, not by the body of the method
            raise self._error(f"{method.__name__} has the wrong signature, {error}") from error

    @contextmanager
    def _unchanged(self, method: str, **records: Any) -> Iterator[None]:
        """Raise `ArgumentError` if the block modifies the arguments of the stage in place."""
        before = {
            f"{record}.{name}": (value, write_count(value), value.clone())
            for record, values in records.items()
            for name, value in values._asdict().items()
            if isinstance(value, Tensor)
        }
        yield
        changed = [name for name, saved in before.items() if _changed(*saved)]
        if changed:
            raise self._error(
                f"{method} changes {' and '.join(changed)} in place; use operations that return a new tensor, "
                "such as mul for mul_"
            )

    def _check_slots(self, method: str, expected: str, result: Any, new: Any, w: Tensor) -> None:
        if not isinstance(new, tuple) or isinstance(new, Signal) or len(new) != len(self._slots):
            raise self._error(
                f"{method} must return {expected} with s a tuple of its {len(self._slots)} slots, "
                f"got {_describe(result)}; change slots with s._replace"
            )
        for slot, value in zip(self._slots, new, strict=True):
            shape = tuple(w.shape) if slot.shape == "elementwise" else ()
            if not isinstance(value, Tensor) or tuple(value.shape) != shape:
                expected_value = f"a tensor of the parameter's shape {shape}" if shape else "a 0-d tensor"
                raise self._error(f"{slot.shape} slot {slot.name} must be {expected_value}, got {_describe(value)}")

    def _check_signal(self, x: Signal, w: Tensor) -> None:
        for name, role in (("v", "direction"), ("g", "gradient"), ("w", "weight")):
            value = getattr(x, name)
            if not isinstance(value, Tensor) or value.shape != w.shape:
                got = tuple(value.shape) if isinstance(value, Tensor) else _describe(value)
                raise self._error(f"the {role} must keep the shape {tuple(w.shape)}, got {got}")
        for name, value in (("d", x.d), ("rate", x.rate), ("shrink", x.shrink)):
            if not (_is_broadcastable(value, w) or (name == "shrink" and value is None)):
                raise self._error(
                    f"x.{name} must be a number or fit the shape {tuple(w.shape)}, got {_describe(value)}"
                )

    def _error(self, text: str) -> ArgumentError:
        return ArgumentError(f"{self._name}: {text}.")

    # ---- missing names ----------------------------------------------------------------------------------------------

    def _no_slot(self, name: str) -> str:
        names = [slot.name for slot in self._slots]
        return (
            f"{self._name}: s has no slot {name!r}, only {', '.join(names)}; declare it in slots."
            if names
            else f"{self._name}: s has no slot {name!r}; declare it, as in slots = (dp.elementwise({name!r}),)."
        )

    def _no_scalar(self, name: str) -> str:
        stage = self._stage
        if name in stage.numeric():
            return f"{self._name}: scalars does not return {name!r}; return it, or read self.{name}."
        if hasattr(stage, name):
            return f"{self._name}: c.{name} is not a scalar; annotate {name} float, or read self.{name}."
        names = ", ".join(stage.prepare(self._clock)._fields)
        return f"{self._name}: c has no scalar {name!r}, only {names or 'none'}; add a field {name}: float."

    def _no_observation(self, name: str) -> str:
        return f"{self._name}: o has no field {name!r}; it has {', '.join(Observation._fields)}."

    def _no_field(self, name: str) -> str:
        return f"{self._name}: x has no field {name!r}; it has {', '.join(Signal._fields)}."


def _copy_tensors(stage: Stage) -> Stage:
    """Return the stage with copies of all settings that are tensors."""
    fields = dataclasses.fields(stage)  # pyright: ignore[reportArgumentType] - every stage is a dataclass
    tensors = {f.name: getattr(stage, f.name) for f in fields if isinstance(getattr(stage, f.name), Tensor)}
    if not tensors:
        return stage
    copied = copy(stage)
    for name, value in tensors.items():
        object.__setattr__(copied, name, value.clone())
    return copied


class _Context(WholeTensor):
    """Reductions over the tensor. Access to any other attribute raises `ArgumentError`."""

    def __init__(self, owner: str) -> None:
        self._owner = owner

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise _UndeclaredError(f"{self._owner}: ctx has no {name!r}; it has mean and norm.")


class _UndeclaredError(ArgumentError, AttributeError):
    """Access to a missing name. This is an `AttributeError`, so that `hasattr` and `getattr` with a default work."""


def _strict(owner: str, kind: Any, message: Callable[[str], str]) -> Any:
    """Return a subclass of the named tuple `kind` in which missing names and assignments raise errors."""

    def missing(self: Any, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise _UndeclaredError(message(name))

    def replaced(self: Any, /, **changes: Any) -> Any:
        for name in changes.keys() - set(kind._fields):
            raise _UndeclaredError(message(name))
        return kind._replace(self, **changes)

    def assigned(self: Any, name: str, value: Any) -> None:
        del self, value
        raise _UndeclaredError(f"{owner}: {name} is assigned to, but arguments of a stage are immutable; use _replace.")

    methods = {"__getattr__": missing, "__setattr__": assigned, "_replace": replaced}
    return type(kind.__name__, (kind,), {"__slots__": (), **methods})


def _is_broadcastable(value: Any, w: Tensor) -> bool:
    """Check whether `value` is a number or a tensor that broadcasts to the shape of `w`."""
    if not isinstance(value, Tensor):
        return isinstance(value, (int, float))
    try:
        return torch.broadcast_shapes(value.shape, w.shape) == w.shape
    except RuntimeError:
        return False


def _changed(value: Tensor, version: int, before: Tensor) -> bool:
    """Check whether a tensor was modified in place. Operations on `.data` change the values but not the version."""
    try:
        return write_count(value) != version or not torch.allclose(value, before, rtol=0, atol=0, equal_nan=True)
    except RuntimeError:  # under vmap
        return False


def _describe(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    if isinstance(value, Mapping) or (isinstance(value, tuple) and not hasattr(value, "_fields")):
        return f"a {type(value).__name__} of {len(value)}"
    return repr(value) if value is None or isinstance(value, (int, float, str)) else f"a {type(value).__name__}"
