"""Declarative checks of nested plain data that was read from a file.

A rule is a constraint on a scalar (see `dashpot.constraints`), or one of the classes of this module for nested values.
`require` raises `SchemaError` with the path of the first value that violates its rule. No check recurses into values
deeper than its rule, so that data of any depth can be checked.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias, TypeGuard, cast

import numpy as np
import torch
from torch import Tensor

from dashpot.constraints import Interval, shown

MAX_DEPTH = 64
"""Number of levels of nested containers in plain data."""
_LONGEST = 60


class SchemaError(ValueError):
    """Error raised for a value that violates its rule; the message is a clause."""


class Leaf(Protocol):
    """Rule for a scalar: a constraint, whose text is a description of the allowed values."""

    def allows(self, value: Any) -> bool: ...


class Nested(Protocol):
    """Rule for a nested value."""

    def check(self, value: Any, path: str) -> None: ...


Rule: TypeAlias = "Leaf | Nested"


def require(rule: Rule, value: Any, path: str = "") -> None:
    """Check a value against a rule.

    Args:
        rule: The rule.
        value: Value to check.
        path: Path of the value in messages; "" for the outermost value.

    Raises:
        SchemaError: If the value, or a value nested in it, violates its rule.

    >>> run = Record({"epochs": COUNT, "history": ListOf(MapOf(REAL))})
    >>> require(run, {"epochs": 2, "history": [{"loss": 0.5}, {"loss": "low"}]})
    Traceback (most recent call last):
    dashpot.utils.schema.SchemaError: history[1].loss must be a number, got 'low'
    """
    if _is_nested(rule):
        rule.check(value, path)
        return
    value = value.item() if isinstance(value, np.generic) else value
    leaf = cast("Leaf", rule)
    if isinstance(value, Tensor) or not leaf.allows(value):
        raise violation(path, str(rule), value)


def _is_nested(rule: Rule) -> TypeGuard[Nested]:
    """Return whether a rule is nested; `isinstance` with a protocol takes 20 times longer."""
    return hasattr(rule, "check")


def violation(path: str, expected: str, value: Any) -> SchemaError:
    """Return the error for a value; containers and tensors are described by their types."""
    got = brief(value) if value is None or isinstance(value, (bool, int, float, str)) else f"a {type(value).__name__}"
    return SchemaError(f"{path or 'the value'} must be {expected}, got {got}")


def brief(value: Any) -> str:
    """Format a value as `shown` does, with at most 60 characters."""
    text = shown(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def joined(path: str, key: Any) -> str:
    """Return the path of an item of a dict."""
    name = key if isinstance(key, str) and key.isprintable() and len(key) <= _LONGEST else brief(key)
    return f"{path}.{name}" if path else name


# ---- scalars --------------------------------------------------------------------------------------------------------

COUNT = Interval(0, 2**53, "both", integer=True)
"""Number of epochs, batches, steps or bytes."""
POSITIVE_COUNT = Interval(1, 2**53, "both", integer=True)
SECONDS = Interval(0, math.inf, "left")


@dataclass(frozen=True)
class Real:
    """A number, which may be nan or infinite; with `labels`, also one of the strings "nan", "inf" and "-inf"."""

    labels: bool = False

    def __str__(self) -> str:
        return "a number"

    def allows(self, value: Any) -> bool:
        if self.labels and isinstance(value, str):
            return value in ("nan", "inf", "-inf")
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return False
        return isinstance(value, float) or abs(value) <= sys.float_info.max


@dataclass(frozen=True)
class Text:
    """A string that matches the regular expression `form`, if given."""

    form: str | None = None
    expected: str = "a string"

    def __str__(self) -> str:
        return self.expected

    def allows(self, value: Any) -> bool:
        return isinstance(value, str) and (self.form is None or re.fullmatch(self.form, value) is not None)


REAL, TEXT = Real(), Text()


# ---- nested values --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Maybe:
    """None, or a value of the rule `inner`."""

    inner: Rule

    def check(self, value: Any, path: str) -> None:
        if value is not None:
            require(self.inner, value, path)


@dataclass(frozen=True)
class ListOf:
    """A list or tuple of at least `least` items of one rule."""

    item: Rule
    least: int = 0

    def check(self, value: Any, path: str) -> None:
        if not isinstance(value, (list, tuple)):
            raise violation(path, "a list", value)
        if len(value) < self.least:
            raise violation(path, f"a list of at least {self.least} items", value)
        if isinstance(self.item, Real) and all(type(item) is float for item in value):
            return  # as in records with a loss per step
        for index, item in enumerate(value):
            require(self.item, item, f"{path}[{index}]")


@dataclass(frozen=True)
class Row:
    """A list or tuple with one rule per item."""

    items: tuple[Rule, ...]

    def check(self, value: Any, path: str) -> None:
        if not isinstance(value, (list, tuple)) or len(value) != len(self.items):
            raise violation(path, f"a list of {len(self.items)} items", value)
        for index, (rule, item) in enumerate(zip(self.items, value, strict=True)):
            require(rule, item, f"{path}[{index}]")


@dataclass(frozen=True)
class MapOf:
    """A dict with at least `least` keys."""

    value: Rule
    key: Rule = TEXT
    least: int = 0

    def check(self, value: Any, path: str) -> None:
        if not isinstance(value, Mapping):
            raise violation(path, "a dict", value)
        if len(value) < self.least:
            raise violation(path, f"a dict with at least {self.least} keys", value)
        for key, item in value.items():
            require(self.key, key, f"a key of {path or 'the value'}")
            require(self.value, item, joined(path, key))


@dataclass(frozen=True)
class Record:
    """A dict with required keys, and optional keys; further keys are ignored."""

    required: Mapping[str, Rule]
    optional: Mapping[str, Rule] = field(default_factory=dict)

    def check(self, value: Any, path: str) -> None:
        if not isinstance(value, Mapping):
            raise violation(path, "a dict", value)
        for name, rule in self.required.items():
            if name not in value:
                raise SchemaError(f"{joined(path, name)} is missing")
            require(rule, value[name], joined(path, name))
        for name, rule in self.optional.items():
            if name in value:
                require(rule, value[name], joined(path, name))


def extended(rule: Rule, required: Mapping[str, Rule], optional: Mapping[str, Rule] | None = None) -> Record:
    """Return a record with additional keys, for the state of a derived class."""
    assert isinstance(rule, Record)
    return Record({**rule.required, **required}, {**rule.optional, **(optional or {})})


@dataclass(frozen=True)
class TensorOf:
    """A tensor, optionally of one dtype and number of dimensions."""

    dtype: torch.dtype | None = None
    dims: int | None = None

    def check(self, value: Any, path: str) -> None:
        kind = "a tensor" if self.dtype is None else f"a tensor of {str(self.dtype).removeprefix('torch.')}"
        if not isinstance(value, Tensor):
            raise violation(path, kind, value)
        if self.dtype not in (None, value.dtype) or self.dims not in (None, value.dim()):
            dims = "" if self.dims is None else f" with {self.dims} dimensions"
            raise SchemaError(f"{path} must be {kind}{dims}, got {value.dtype} with {value.dim()} dimensions")


@dataclass(frozen=True)
class Plain:
    """Any data with at most `MAX_DEPTH` levels of nested containers."""

    def check(self, value: Any, path: str) -> None:
        level, depth = [value], 0
        while level:
            below: list[Any] = []
            for item in level:
                if isinstance(item, Mapping):
                    below += item.values()
                elif isinstance(item, (list, tuple, set, frozenset)):
                    below += item
            level, depth = below, depth + 1
            if depth > MAX_DEPTH:
                raise SchemaError(f"{path or 'the value'} must have at most {MAX_DEPTH} levels")


PLAIN = Plain()


@dataclass(frozen=True)
class Like:
    """A value of the same form as `reference`.

    Dicts have the same keys, and lists the same length, unless the list of the reference is empty. Tensors have the
    same shape and dtype. Numbers are finite and nonnegative if the reference is. Where the reference is None, flags and
    numbers are allowed as well.
    """

    reference: Any

    def check(self, value: Any, path: str) -> None:
        own = self.reference
        if _is_number(own):
            _check_number(own, value, path)
        elif isinstance(own, Mapping):
            require(Record({name: Like(item) for name, item in own.items()}), value, path)
        elif isinstance(own, (list, tuple)) and own:
            require(Row(tuple(map(Like, own))), value, path)
        elif isinstance(own, (list, tuple)):
            require(ListOf(PLAIN), value, path)
        elif isinstance(own, Tensor):
            if not isinstance(value, Tensor) or value.shape != own.shape or value.dtype != own.dtype:
                raise violation(path, f"a tensor of shape {tuple(own.shape)} and {own.dtype}", value)
        elif own is None:
            if value is not None and not isinstance(value, bool) and not REAL.allows(value):
                raise violation(path, "None, a flag or a number", value)
        elif type(value) is not type(own):
            raise violation(path, f"a {type(own).__name__}", value)


def _is_number(value: Any) -> bool:
    """Return whether a value is a number or a 0-d tensor; optimizers accept both for hyperparameters."""
    if isinstance(value, Tensor):
        return value.dim() == 0 and not value.is_complex() and value.dtype != torch.bool
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _check_number(own: Any, value: Any, path: str) -> None:
    if not _is_number(value):
        raise violation(path, "a number", value)
    own, value = (item.item() if isinstance(item, Tensor) else item for item in (own, value))
    require(REAL, value, path)
    if math.isfinite(own) and not math.isfinite(value):
        raise violation(path, "a finite number", value)
    if own >= 0 > value:
        raise violation(path, "a number in [0, inf)", value)
