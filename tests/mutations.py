"""Mutations of nested data: for each path, other values, and the deletion of the value."""

from __future__ import annotations

import math

VALUES = {
    "none": None,
    "text": "text",
    "nan": math.nan,
    "negative": -1,
    "huge": 10**400,
    "list": [],
    "dict": {},
    "true": True,
}
"""Values of wrong types or ranges, by name."""


def paths(value, items_of_long_lists, prefix=()):
    """Yield the path of every value in nested dicts, lists and tuples.

    Of lists with more than five items, only the first `items_of_long_lists` are included.
    """
    if isinstance(value, dict):
        items = list(value.items())
    elif isinstance(value, (list, tuple)):
        items = list(enumerate(value))[: items_of_long_lists if len(value) > 5 else None]
    else:
        return
    for key, item in items:
        yield (*prefix, key)
        yield from paths(item, items_of_long_lists, (*prefix, key))


def mutated(data, path, value=..., delete=False):
    """Return a copy of nested data in which the value at a path is replaced or deleted; the rest is shared."""
    key, *rest = path
    new = dict(data) if isinstance(data, dict) else list(data)
    if rest:
        new[key] = mutated(data[key], rest, value, delete)
    elif delete:
        del new[key]
    else:
        new[key] = value
    return tuple(new) if isinstance(data, tuple) else new
