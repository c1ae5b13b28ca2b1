"""Constraints on arguments, used by validation, error messages and tests of invalid input.

A constraint checks a value, describes the allowed range as text, and lists examples of rejected values. `field`
attaches a constraint to a dataclass field. `ARGUMENTS` contains the constraints of the hyperparameters, by name.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypeGuard

from dashpot.errors import ArgumentError

if TYPE_CHECKING:  # the command line checks its options before it loads torch
    from torch import Tensor

__all__ = [
    "ARGUMENTS",
    "Interval",
    "OneOf",
    "Optional",
    "Pair",
    "Scalar",
    "check",
    "check_fields",
    "field",
    "shown",
    "similar",
    "unknown",
]

Scalar: TypeAlias = "float | Tensor"
"""Value of a hyperparameter: a Python number, or a 0-d tensor if the value is on a device or vmapped."""


_LONGEST = 500
_MOST_ITEMS = 8
_CONTAINER_REPRS = (list.__repr__, tuple.__repr__, dict.__repr__)
_LARGEST = sys.float_info.max  # excludes integers that overflow a float, as well as inf and nan


def plain(value: Any) -> Any:
    """Convert a NumPy scalar to a Python number, for the `repr` of recipes and for loading with `weights_only=True`."""
    numpy = sys.modules.get("numpy")
    return value.item() if numpy is not None and isinstance(value, numpy.generic) else value


def is_tensor(value: Any) -> TypeGuard[Tensor]:
    """Return whether `value` is a tensor; without torch, no value is."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


class Constraint(Protocol):
    """Interface of a constraint; `str()` returns a description of the allowed values."""

    def allows(self, value: Any) -> bool: ...

    def refused(self) -> list[Any]: ...


@dataclass(frozen=True)
class Interval:
    """A number between `low` and `high`, including the ends named by `closed`.

    >>> str(Interval(0, 1, "left")), Interval(0, 1, "left").allows(1.0)
    ('a number in [0, 1)', False)
    """

    low: float = -math.inf
    high: float = math.inf
    closed: str = "neither"
    integer: bool = False

    def __str__(self) -> str:
        left = "[" if self.closed in ("left", "both") else "("
        right = "]" if self.closed in ("right", "both") else ")"
        noun = "an integer" if self.integer else "a number"
        return f"{noun} in {left}{self.low:g}, {self.high:g}{right}"

    def allows(self, value: Any) -> bool:
        if is_tensor(value):
            if not is_numeric_tensor(value) or (self.integer and value.is_meta):
                return False
            return is_unreadable(value) or self.allows(value.item())
        value, kinds = plain(value), int if self.integer else (int, float)
        if isinstance(value, bool) or not isinstance(value, kinds):
            return False
        if not abs(value) <= _LARGEST and not (value == self.high and self.closed in ("right", "both")):
            return False
        above = value >= self.low if self.closed in ("left", "both") else value > self.low
        below = value <= self.high if self.closed in ("right", "both") else value < self.high
        return above and below

    def refused(self) -> list[Any]:
        values: list[Any] = [math.nan, math.inf, -math.inf, "0.1", None, True, (0.1,)]
        values = [value for value in values if value != self.high or self.closed not in ("right", "both")]
        if math.isfinite(self.low):
            values.append(self.low - 1)
            if self.closed not in ("left", "both"):
                values.append(self.low)
        if math.isfinite(self.high):
            values.append(self.high + 1)
            if self.closed not in ("right", "both"):
                values.append(self.high)
        if self.integer:
            values.append(1.5)
        return values


@dataclass(frozen=True)
class OneOf:
    """One of several values; `True` and 1 are distinct."""

    values: tuple[Any, ...]

    def __str__(self) -> str:
        return "one of " + ", ".join(repr(v) for v in self.values)

    def allows(self, value: Any) -> bool:
        return any(type(value) is type(v) and value == v for v in self.values)

    def refused(self) -> list[Any]:
        return ["not a choice", 17, None if None not in self.values else 3.5]


@dataclass(frozen=True)
class Pair:
    """A tuple or list of two values, each allowed by `item`."""

    item: Interval

    def __str__(self) -> str:
        return f"a pair, each {self.item}"

    def allows(self, value: Any) -> bool:
        return isinstance(value, (tuple, list)) and len(value) == 2 and all(self.item.allows(v) for v in value)

    def refused(self) -> list[Any]:
        good = 0.5
        return [good, (good,), (good, good, good), "ab", *[(good, bad) for bad in self.item.refused()]]


@dataclass(frozen=True)
class Optional:
    """`None`, or a value allowed by `inner`."""

    inner: Interval | OneOf | Pair

    def __str__(self) -> str:
        return f"None or {self.inner}"

    def allows(self, value: Any) -> bool:
        return value is None or self.inner.allows(value)

    def refused(self) -> list[Any]:
        return [value for value in self.inner.refused() if value is not None]


def is_numeric_tensor(value: Tensor) -> bool:
    """Return True for a real-valued tensor with exactly one element and any number of dimensions."""
    import torch

    if value.layout != torch.strided or value.is_nested or value.is_quantized:
        return False
    return value.numel() == 1 and not value.is_complex() and value.dtype != torch.bool


def is_unreadable(value: Tensor) -> bool:
    """Return True if reading the value would fail (traced, vmapped or meta tensors) or require a host sync."""
    import torch

    from dashpot._torch_private import is_functorch_wrapped

    return torch.compiler.is_compiling() or value.device.type != "cpu" or is_functorch_wrapped(value)


def shown(value: Any) -> str:
    """Format a value for a message on one line, without the contents of tensors, arrays, modules and long containers.

    Other values are shown as their truncated `repr`, or as a description if `repr` fails.

    >>> import torch
    >>> shown(0.5), shown(10**5000), shown([1, torch.zeros(2, 3)])
    ('0.5', 'an integer of 16610 bits', '[1, a tensor of shape (2, 3) and dtype float32]')
    """
    return _brief(value, 2)


def _brief(value: Any, depth: int) -> str:
    """Return the text of `shown`, with the items of `depth` levels of nested containers."""
    summary = _summary(value)
    if summary is not None:
        return summary
    if isinstance(value, (list, tuple, Mapping)) and type(value).__repr__ in _CONTAINER_REPRS:
        return _container(value, depth)
    try:
        text = " ".join(repr(value).split())
    except Exception:  # an integer above Python's digit limit, or an object with a broken `repr`
        is_integer = isinstance(value, int)
        return f"an integer of {value.bit_length()} bits" if is_integer else f"a {type(value).__name__}"
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def _summary(value: Any) -> str | None:
    """Describe a tensor or array with dimensions, a data frame, an optimizer or a module; None for other values."""
    if isinstance(value, type):
        return None
    shape, torch = getattr(value, "shape", None), sys.modules.get("torch")  # not imported for the command line
    if isinstance(shape, tuple) and shape and not (torch and isinstance(value, torch.nn.Module)):
        dtype = str(getattr(value, "dtype", "")).removeprefix("torch.")
        kind = "tensor" if torch and isinstance(value, torch.Tensor) else type(value).__name__
        return f"a {kind} of shape {tuple(shape)}" + (f" and dtype {dtype}" if dtype else "")
    if torch and isinstance(value, torch.Tensor) and value.grad_fn is not None:
        return "a 0-d tensor"
    if torch and isinstance(value, torch.optim.Optimizer):
        return f"the optimizer {type(value).__name__} of {type(value).__module__.partition('.')[0]}"
    return f"a module {type(value).__name__}" if torch and isinstance(value, torch.nn.Module) else None


def _container(value: Any, depth: int) -> str:
    """Return the `repr` of a list, tuple or dict with at most eight brief items."""
    if not depth and value:
        return f"a {type(value).__name__} of {len(value)} items"
    items = islice(value.items() if isinstance(value, Mapping) else value, _MOST_ITEMS)
    if isinstance(value, Mapping):
        parts = [f"{_brief(key, depth - 1)}: {_brief(item, depth - 1)}" for key, item in items]
    else:
        parts = [_brief(item, depth - 1) for item in items]
    parts += [f"... ({len(value)} items)"] if len(value) > _MOST_ITEMS else []
    first, last = "{}" if isinstance(value, Mapping) else "[]" if isinstance(value, list) else "()"
    return f"{first}{', '.join(parts)}{',' if isinstance(value, tuple) and len(value) == 1 else ''}{last}"


def check(owner: str, name: str, value: Any, allowed: Constraint) -> None:
    """Raise `ArgumentError` unless `allowed` allows `value`.

    >>> check("Adam", "lr", -1.0, ARGUMENTS["lr"])
    Traceback (most recent call last):
    dashpot.errors.ArgumentError: Adam: lr must be a number in [0, inf), got -1.0.
    """
    if not allowed.allows(value):
        raise ArgumentError(f"{owner}: {name} must be {allowed}, got {shown(value)}.")


def field(default: Any, allowed: Constraint) -> Any:
    """Return a dataclass field with a constraint, enforced by `check_fields`."""
    if default is dataclasses.MISSING:
        return dataclasses.field(metadata={"allowed": allowed})
    return dataclasses.field(default=default, metadata={"allowed": allowed})


def check_fields(value: Any) -> None:
    """Check all constrained fields of a dataclass instance; error messages begin with the name of the dataclass."""
    for item in dataclasses.fields(value):
        allowed = item.metadata.get("allowed")
        if allowed is not None:
            check(type(value).__name__, item.name, getattr(value, item.name), allowed)


def unknown(kind: str, name: str, known: Iterable[str]) -> ArgumentError:
    """Return the error for a name that is not in `known`, with the closest match as a suggestion.

    >>> print(unknown("method", "adamm", ["adam", "sgd"]))
    Unknown method 'adamm': did you mean 'adam'? Known: adam, sgd.
    >>> print(unknown("method", "zzz", ["adam", "sgd"]))
    Unknown method 'zzz'. Known: adam, sgd.
    """
    names = sorted(known)
    near = similar(name, names)
    hint = f": did you mean {near!r}?" if near else "."
    return ArgumentError(f"Unknown {kind} {shown(name)}{hint} Known: {', '.join(names)}.")


def similar(name: Any, names: Iterable[str]) -> str | None:
    """Return the element of `names` that is most similar to `name`, ignoring case, or None if no element is similar."""
    if not isinstance(name, str):
        return None
    known = {item.lower(): item for item in names}
    near = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.5)
    return known[near[0]] if near else None


NONNEGATIVE = Interval(0, math.inf, "left")
POSITIVE = Interval(0, math.inf)
POLE = Interval(0, 1, "left")
ZERO = Interval(-math.inf, 1)
SHARE = Interval(0, 1, "both")
FLAG = OneOf((False, True))
SEED = Interval(0, 2**32 - 1, "both", integer=True)
"""Allowed seeds. torch's CPU generator uses only 32 bits of a seed, so each larger seed would be equivalent to an
allowed one."""

ARGUMENTS: Mapping[str, Constraint] = {
    "lr": NONNEGATIVE,
    "lr_decay": NONNEGATIVE,
    "initial_accumulator_value": NONNEGATIVE,
    "betas": Pair(POLE),
    "momentum": POLE,
    "pole": POLE,
    "zero": ZERO,
    "gain": Optional(NONNEGATIVE),
    "nu": SHARE,
    "nus": Pair(SHARE),
    "alpha": POLE,
    "beta": POLE,
    "eps": NONNEGATIVE,
    "weight_decay": NONNEGATIVE,
    "momentum_decay": NONNEGATIVE,
    "dampening": SHARE,
    "nesterov": FLAG,
    "centered": FLAG,
    "maximize": FLAG,
    "amsgrad": FLAG,
    "debias": OneOf((False, True, "exact")),
    "adaptive": FLAG,
    "beta_n": POLE,
    "beta_a": POLE,
    "numerator": OneOf((0, 1, 2, 3, 4)),
    "decoupled_weight_decay": FLAG,
    "differentiable": FLAG,
    "foreach": OneOf((None, False, True)),
    "fused": OneOf((None, False, True)),
    "decay": OneOf(("coupled", "change")),
    "decay_scale": OneOf(("lr", "schedule", "constant")),
    "mean": OneOf(("average", "direction")),
    "v": Optional(SHARE),
    "lr_warmup": POLE,
    "version": OneOf((0, 1, 2)),
    "hessian_power": SHARE,
    "spatial_averaging": FLAG,
    "gamma": NONNEGATIVE,
    "update_d_every": Interval(1, math.inf, "left", integer=True),
    "d_warmup": Interval(1, math.inf, "left", integer=True),
    "seed": Interval(0, 2**63, "left", integer=True),
    "uncentered_steps": Interval(0, math.inf, "left", integer=True),
}
"""Constraints on all hyperparameters, by names that are common to all methods."""

EXPLAIN_ARGUMENTS: Mapping[str, Constraint] = {
    "curvature": Optional(POSITIVE),
    "noise": Optional(POSITIVE),
    "batch_size": Optional(Interval(1, math.inf, "left", integer=True)),
    "to_batch": Optional(Interval(1, math.inf, "left", integer=True)),
    "step": Optional(Interval(0, math.inf, "left", integer=True)),
    "steps": Optional(Interval(1, math.inf, "left", integer=True)),
}
"""Constraints on the arguments of `dashpot.explain`, which the command line checks before it loads torch."""


def check_explain_arguments(**values: Any) -> None:
    """Check arguments of `dashpot.explain` that are not settings of a method."""
    for name, value in values.items():
        check("explain", name, value, EXPLAIN_ARGUMENTS[name])
    if values.get("to_batch") is not None and values.get("batch_size") is None:
        raise ArgumentError("explain: batch_size must be given with to_batch, got None.")
    if values.get("to_batch") is not None and values["to_batch"] == values["batch_size"]:
        raise ArgumentError(f"explain: to_batch must differ from batch_size, got {values['to_batch']} for both.")
    if values.get("noise") is not None and values.get("curvature") is None:
        raise ArgumentError("explain: curvature must be given with noise, got None.")
