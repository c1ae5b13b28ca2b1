"""Scalar arithmetic that works alike on Python numbers and on 0-d tensors.

A stage turns its settings and the step number into a few scalars. They are Python floats in the eager engine and
tensors where a setting is mapped over (`torch.func.vmap`) or differentiated, so a comparison must not be an `if`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dashpot.constraints import Scalar

__all__ = ["is_number", "minimum", "where"]


def where(condition: bool | Tensor, yes: Scalar, no: Scalar) -> Scalar:
    """`yes` if `condition` else `no`.

    >>> where(2 > 1, 0.5, 0.25), where(torch.tensor(1.0) > 2, 0.5, torch.tensor(0.25))
    (0.5, tensor(0.2500))
    """
    if isinstance(condition, Tensor):
        return torch.where(condition, yes, no)
    return yes if condition else no


def minimum(a: Scalar, b: Scalar) -> Scalar:
    """The smaller of two scalars.

    >>> minimum(3, 10.0)
    3
    """
    return where(a < b, a, b)


def is_number(value: object) -> bool:
    """True for a Python number: one whose value can be looked at without waiting for a device."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)
