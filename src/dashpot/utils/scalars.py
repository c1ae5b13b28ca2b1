"""Scalar arithmetic on Python numbers and 0-d tensors.

In the eager engine, the scalars of a stage are Python floats, or tensors if a setting is vmapped (`torch.func.vmap`) or
differentiated. Comparisons therefore use `where` instead of `if`.
"""

from __future__ import annotations

import math
import operator
import sys
from collections.abc import Sequence
from typing import Any, TypeGuard

import numpy as np
import torch
from torch import Tensor

from dashpot.constraints import Scalar, is_numeric_tensor, is_unreadable

_MOST = 2**63 - 1  # largest integer torch can represent
_PLAIN = (float, int, bool, str, type(None))


def where(condition: bool | Tensor, yes: Scalar, no: Scalar) -> Scalar:
    """Return `yes` if `condition` else `no`.

    >>> where(2 > 1, 0.5, 0.25), where(torch.tensor(1.0) > 2, 0.5, torch.tensor(0.25))
    (0.5, tensor(0.2500))
    """
    if not isinstance(condition, Tensor):
        return yes if condition else no
    if is_number(yes) and is_number(no):  # torch would round to its default dtype
        yes = torch.full_like(condition, yes, dtype=torch.float64)
    return torch.where(condition, yes, no)


def minimum(a: Scalar, b: Scalar) -> Scalar:
    """Return the smaller of two scalars.

    >>> minimum(3, 10.0)
    3
    """
    return where(a < b, a, b)


def scalar_dtype(device: torch.device) -> torch.dtype:
    """Return the dtype of scalars on a device: float64, or float32 on MPS, which lacks float64."""
    return torch.float32 if device.type == "mps" else torch.float64


def read(value: Any, keep: bool = False) -> Any:
    """Convert a setting to a number in double precision.

    A CPU tensor with one element becomes a Python number. Device tensors, vmapped tensors and, if `keep` is True (for
    differentiable steps), all tensors become 0-d float64 tensors that are connected to the original by autograd. NumPy
    scalars become Python numbers, the entries of a pair are converted individually, integers outside torch's range
    become floats, and all other values are returned unchanged.

    >>> read(torch.full((1, 1), 0.5)), read((0.5, torch.tensor([3]))), read(torch.tensor(0.5), keep=True)
    (0.5, (0.5, 3), tensor(0.5000, dtype=torch.float64))
    """
    if type(value) in _PLAIN:
        huge = type(value) is int and _MOST < abs(value) <= sys.float_info.max
        return float(value) if huge else value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, (tuple, list)):
        items = tuple(read(item, keep) for item in value)
        return value if all(map(operator.is_, items, value)) else items
    return _read_tensor(value, keep) if isinstance(value, Tensor) and is_numeric_tensor(value) else value


def _read_tensor(value: Tensor, keep: bool) -> Any:
    if keep or is_unreadable(value):
        return value.reshape(()).to(scalar_dtype(value.device))
    return value.item()


def bound(value: Any, x: Any) -> Any:
    """Return `value` as a bound for clamping `x`.

    torch rejects a bound outside the range of the dtype of `x`; such a value is replaced by infinity.

    >>> bound(1e300, torch.ones(1)), bound(1e300, torch.ones(1, dtype=torch.float64))
    (inf, 1e+300)
    """
    if type(value) is float and isinstance(x, Tensor) and abs(value) > torch.finfo(x.dtype).max:
        return math.copysign(math.inf, value)
    return value


def is_number(value: object) -> TypeGuard[float]:
    """Return True for a Python number, which can be read without a host sync. A bool does not count as a number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def typed_key(value: Any) -> Any:
    """Return a dictionary key for `value` that distinguishes True from 1."""
    if isinstance(value, (tuple, list)):
        return tuple(map(typed_key, value))
    return (bool, value) if isinstance(value, bool) else value


def is_numeric(value: Any) -> bool:
    """Return True for a number or a pair of numbers. Older checkpoints may lack settings of other types."""
    if isinstance(value, tuple):
        return value != () and all(is_numeric(item) for item in value)
    return is_number(value) or isinstance(value, Tensor)


def is_immutable(value: Any) -> bool:
    """Return True if `value` cannot change in place: a number, a string, None, or a tuple of immutable values."""
    return isinstance(value, _PLAIN) or (isinstance(value, tuple) and all(map(is_immutable, value)))


def read_all(values: Sequence[Any]) -> list[Any]:
    """Return `values` with tensors of one element as Python numbers, using one device transfer per device and dtype.

    >>> read_all([torch.tensor(0.5), 2, torch.tensor(4)])
    [0.5, 2, 4]
    """
    result, places = list(values), {}
    for place, value in enumerate(values):
        if isinstance(value, Tensor):
            places.setdefault((value.device, value.dtype), []).append(place)
    for group in places.values():
        numbers = torch.stack([values[place].detach().reshape(()) for place in group]).tolist()
        for place, number in zip(group, numbers, strict=True):
            result[place] = number
    return result
