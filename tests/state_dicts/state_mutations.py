"""Mutations of a valid state dict, which loading must convert or reject."""

from __future__ import annotations

import copy

import numpy as np
import torch

NUMBERS = {
    "nan": float("nan"),
    "infinite": float("inf"),
    "negative": -1,
    "fractional": 1.5,
    "2^53": 2**53,
    "2^63": 2**63,
    "10^400": 10**400,
    "a string": "3",
    "a bool": True,
    "a list": [3],
    "a dict": {},
    "a tensor of nan": torch.tensor(float("nan")),
    "a tensor of two": torch.ones(2),
    "a complex tensor": torch.tensor(3j),
    "a meta tensor": torch.tensor(3.0, device="meta"),
    "a number": 3,
    "a numpy number": np.float64(3),
    "an integer tensor": torch.tensor(3),
    "shape (1,)": torch.tensor([3.0]),
}
"""Replacements for a count or a per-tensor slot."""

GROUP_VALUES = {"a string": "x", "nothing": None, "a dict": {}}


def element_values(value):
    """Return replacements for an elementwise slot."""
    return {
        "a float": 0.5,
        "a list": value.tolist(),
        "sparse": value.to_sparse(),
        "complex": value.to(torch.complex128),
        "int64": value.to(torch.int64),
        "bool": value.to(torch.bool),
        "float8": value.to(torch.float8_e4m3fn),
        "on meta": value.to("meta"),
        "a string": "zeros",
        "a dict": {"data": value},
        "nothing": None,
        "another shape": torch.zeros(value.dim() + 7),
        "bfloat16": value.to(torch.bfloat16),
        "a view in another order": value.t().contiguous().t() if value.dim() == 2 else value,
        "nested": torch.nested.nested_tensor([torch.zeros(2)], layout=torch.jagged),
        "one number, expanded": torch.zeros(()).expand(value.shape),
        "a parameter": torch.nn.Parameter(value.clone()),
    }


def mutations(saved):
    """Yield pairs (description, mutated state dict) for many mutations of `saved`."""
    first = next(iter(saved["state"]), None)
    entry = saved["state"].get(first, {})
    for key, value in entry.items():
        elementwise = isinstance(value, torch.Tensor) and value.dim() > 0
        for what, new in (element_values(value) if elementwise else NUMBERS).items():
            yield f"{key}: {what}", _with(saved, "state", first, key, new)
        yield f"{key}: missing", _with(saved, "state", {first: {k: v for k, v in entry.items() if k != key}})
    for what, new in {"a list": [], "nothing": None, "a string": "x", "a tensor": torch.ones(2)}.items():
        yield f"entry: {what}", _with(saved, "state", first, new)
        yield f"state: {what}", _with(saved, "state", new)
        yield f"param_groups: {what}", _with(saved, "param_groups", new)
        yield f"group: {what}", _with(saved, "param_groups", 0, new)
        yield f"params: {what}", _with(saved, "param_groups", 0, "params", new)
        yield f"param_names: {what}", _with(saved, "param_groups", 0, "param_names", new)
    yield "an entry of no parameter", _with(saved, "state", 99, dict(entry))
    yield "an entry under a tensor", _with(saved, "state", torch.zeros(2), dict(entry))
    yield "an entry under a string", _with(saved, "state", "note", "mine")
    for key, value in saved["param_groups"][0].items():
        if key == "params":
            yield "params: twice", _with(saved, "param_groups", 0, key, [value[0]] * len(value))
            yield "params: lists", _with(saved, "param_groups", 0, key, [[index] for index in value])
            continue
        values = NUMBERS if key in ("steps_done", "products", "products_skipped", "product_at") else GROUP_VALUES
        for what, new in values.items():
            yield f"group's {key}: {what}", _with(saved, "param_groups", 0, key, new)


def _with(saved, *path_and_value):
    """Return a copy of `saved` with the value at a path replaced."""
    *path, last, new = path_and_value
    changed = copy.deepcopy(saved)
    place = changed
    for step in path:
        place = place[step]
    place[last] = new
    return changed
