"""Scalar arithmetic that works alike on Python numbers and on 0-d tensors.

A stage turns its settings and the step number into a few scalars. They are Python floats in the eager engine and
tensors where a setting is mapped over (`torch.func.vmap`) or differentiated, so a comparison must not be an `if`.
"""

from __future__ import annotations

from typing import TypeGuard

import torch
from torch import Tensor

from dashpot.constraints import Scalar

__all__ = ["is_number", "minimum", "where"]


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


def is_number(value: object) -> TypeGuard[float]:
    """True for a Python number: one whose value can be looked at without waiting for a device."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)
