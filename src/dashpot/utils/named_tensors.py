"""Tensors in nested data, with the Python expressions that select them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

MAX_DEPTH = 12
"""Maximum nesting depth, so that self-referential data ends the traversal."""


def named_tensors(value: Any, path: str, depth: int = MAX_DEPTH) -> Iterator[tuple[str, Tensor]]:
    """Yield (expression, tensor) for every tensor or numeric numpy array in nested data, in order.

    Mappings, lists, tuples, named tuples, dataclasses and the attributes of other objects, such as graphs, are
    traversed; modules, classes and functions are not.

    >>> [name for name, _ in named_tensors([{"boxes": torch.zeros(2)}, torch.ones(1)], "y")]
    ['y[0]["boxes"]', 'y[1]']
    """
    if isinstance(value, Tensor):
        yield path, value
    elif isinstance(value, np.ndarray):
        if value.dtype.kind in "fc":
            yield path, torch.from_numpy(value.copy())
    elif depth:
        for step, item in _items(value):
            yield from named_tensors(item, path + step, depth - 1)


def _items(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield (suffix of the expression, item) for each item of a container."""
    if isinstance(value, Mapping) or (callable(getattr(value, "keys", None)) and hasattr(value, "__getitem__")):
        keys = value.keys()
        yield from ((f'["{key}"]' if isinstance(key, str) else f"[{key!r}]", value[key]) for key in keys)
    elif isinstance(value, tuple) and hasattr(value, "_fields"):
        yield from ((f".{name}", getattr(value, name)) for name in value._fields)  # pyright: ignore[reportAttributeAccessIssue]
    elif isinstance(value, (list, tuple)):
        yield from ((f"[{index}]", item) for index, item in enumerate(value))
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        yield from ((f".{field.name}", getattr(value, field.name, None)) for field in dataclasses.fields(value))
    elif not isinstance(value, (nn.Module, type)) and not callable(value):
        yield from ((f".{name}", item) for name, item in getattr(value, "__dict__", {}).items())
