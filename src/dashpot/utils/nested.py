"""Tensors in nested tuples, lists and mappings."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any

from torch import Tensor


def map_tensors(function: Callable[[Tensor], Tensor], value: Any) -> Any:
    """Apply `function` to every tensor in nested tuples, lists and mappings.

    >>> import torch
    >>> map_tensors(torch.neg, {"a": (torch.ones(1), "b")})
    {'a': (tensor([-1.]), 'b')}
    """
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, (list, tuple, Mapping)):
        return map_columns(lambda item: map_tensors(function, item), value)
    return value


def map_columns(function: Callable[[Any], Any], value: Any) -> Any:
    """Return a copy of a tuple, list, mapping or dataclass with `function` applied to each item."""
    if type(value) is dict:
        return {key: function(item) for key, item in value.items()}
    if isinstance(value, Mapping):
        return _with_items(value, {key: function(value[key]) for key in value})
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*map(function, value))
    if isinstance(value, (list, tuple)):
        return type(value)(map(function, value))
    copied = copy.copy(value)
    for field in dataclasses.fields(value):
        object.__setattr__(copied, field.name, function(getattr(value, field.name)))
    return copied


def _with_items(value: Mapping[Any, Any], items: dict[Any, Any]) -> Any:
    """Return a copy of a mapping of any class with other items; a dict if the class does not allow it."""
    if not isinstance(value, MutableMapping):
        return items
    copied = copy.copy(value)
    for key, item in items.items():
        copied[key] = item
    return copied


def tensors(value: Any) -> list[Tensor]:
    """Return every tensor in nested tuples, lists and mappings."""
    if isinstance(value, Tensor):
        return [value]
    items = value.values() if isinstance(value, Mapping) else value if isinstance(value, (list, tuple)) else ()
    return [tensor for item in items for tensor in tensors(item)]


def cpu_copies(value: Any) -> Any:
    """Return nested data with every tensor detached and copied to the CPU."""
    return map_tensors(lambda tensor: tensor.detach().to("cpu", copy=True), value)
