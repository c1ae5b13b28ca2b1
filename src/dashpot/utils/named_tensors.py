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


def named_tensors(value: Any, path: str) -> Iterator[tuple[str, Tensor]]:
    """Yield (expression, tensor) for every tensor, and every array of floating-point numbers, in nested data, in order.

    Mappings, lists, tuples, named tuples, dataclasses and the attributes of other objects, such as graphs, are
    traversed; modules, classes and functions are not.

    >>> [name for name, _ in named_tensors([{"boxes": torch.zeros(2)}, torch.ones(1)], "y")]
    ['y[0]["boxes"]', 'y[1]']
    """
    for name, leaf in named_leaves(value, path):
        if isinstance(leaf, Tensor):
            yield name, leaf
        elif isinstance(leaf, np.ndarray) and leaf.dtype.kind in "fc":
            yield name, torch.from_numpy(leaf.copy())


def named_leaves(value: Any, path: str, depth: int = MAX_DEPTH) -> Iterator[tuple[str, Any]]:
    """Yield (expression, value) for everything in nested data that is not a container."""
    items = None if isinstance(value, (Tensor, np.ndarray)) or not depth else _items(value)
    if items is None:
        yield path, value
        return
    for step, item in items:
        yield from named_leaves(item, path + step, depth - 1)


def _items(value: Any) -> list[tuple[str, Any]] | None:
    """Return (suffix of the expression, item) for each item of a container, or None for other values."""
    if isinstance(value, Mapping) or (callable(getattr(value, "keys", None)) and hasattr(value, "__getitem__")):
        keys = value.keys()
        return [(f'["{key}"]' if isinstance(key, str) else f"[{key!r}]", value[key]) for key in keys]
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return [(f".{name}", item) for name, item in zip(value._fields, value, strict=True)]  # pyright: ignore[reportAttributeAccessIssue]
    if isinstance(value, (list, tuple)):
        return [(f"[{index}]", item) for index, item in enumerate(value)]
    if isinstance(value, (nn.Module, type)) or callable(value):
        return None
    if dataclasses.is_dataclass(value):
        return [(f".{field.name}", getattr(value, field.name, None)) for field in dataclasses.fields(value)]
    attributes = getattr(value, "__dict__", None)
    return None if attributes is None else [(f".{name}", item) for name, item in attributes.items()]
