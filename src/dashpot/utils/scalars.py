"""Scalar arithmetic that works alike on Python numbers and on 0-d tensors.

A stage turns its settings and the step number into a few scalars. They are Python floats in the eager engine and
tensors where a setting is mapped over (`torch.func.vmap`) or differentiated, so a comparison must not be an `if`.
"""

from __future__ import annotations

import math
import operator
import sys
from typing import Any, TypeGuard

import numpy as np
import torch
from torch import Tensor

from dashpot.constraints import Scalar, is_numeric_tensor, is_unreadable

__all__ = ["bound", "is_number", "is_numeric", "minimum", "read", "scalar_dtype", "told_apart", "where"]

_MOST = 2**63 - 1  # torch computes with no larger integer
_PLAIN = (float, int, bool, str, type(None))


def where(condition: bool | Tensor, yes: Scalar, no: Scalar) -> Scalar:
    """`yes` if `condition` else `no`.

    >>> where(2 > 1, 0.5, 0.25), where(torch.tensor(1.0) > 2, 0.5, torch.tensor(0.25))
    (0.5, tensor(0.2500))
    """
    if not isinstance(condition, Tensor):
        return yes if condition else no
    if is_number(yes) and is_number(no):  # torch would round two Python numbers to its default dtype
        yes = torch.full_like(condition, yes, dtype=torch.float64)
    return torch.where(condition, yes, no)


def minimum(a: Scalar, b: Scalar) -> Scalar:
    """The smaller of two scalars.

    >>> minimum(3, 10.0)
    3
    """
    return where(a < b, a, b)


def scalar_dtype(device: torch.device) -> torch.dtype:
    """The dtype in which scalars are computed on a device: Apple's has no float64."""
    return torch.float32 if device.type == "mps" else torch.float64


def read(value: Any, keep: bool = False) -> Any:
    """A setting as the stages take it: whatever its dtype and number of dimensions, a number in double precision.

    A one-element tensor on the CPU becomes a Python number. One that is on a device or mapped over, and every one where
    `keep` is true because the step is differentiated, becomes a 0-d float64 tensor that autograd traces back to it.
    numpy numbers and the entries of pairs are read alike, and an integer that torch cannot compute with becomes a
    float; anything else is returned as it is.

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
    """`value` as a bound of `x`: infinite where the dtype of `x` does not reach so far, as torch's clamps refuse it.

    >>> bound(1e300, torch.ones(1)), bound(1e300, torch.ones(1, dtype=torch.float64))
    (inf, 1e+300)
    """
    if type(value) is float and isinstance(x, Tensor) and abs(value) > torch.finfo(x.dtype).max:
        return math.copysign(math.inf, value)
    return value


def is_number(value: object) -> TypeGuard[float]:
    """True for a Python number: one whose value can be looked at without waiting for a device."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def told_apart(value: Any) -> Any:
    """What to look a value up by: True is not 1 here."""
    if isinstance(value, (tuple, list)):
        return tuple(map(told_apart, value))
    return (bool, value) if isinstance(value, bool) else value


def is_numeric(value: Any) -> bool:
    """True for a number or a pair of numbers; older checkpoints and torch's may lack flags and choices."""
    if isinstance(value, tuple):
        return value != () and all(is_numeric(item) for item in value)
    return is_number(value) or isinstance(value, Tensor)
