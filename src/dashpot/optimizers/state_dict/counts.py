"""Validation of the counts of steps and Hessian-vector products in parameter groups and in the state of parameters."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from dashpot.errors import ArgumentError

COUNT_BITS = 53
"""Counts must be below 2^53, because schedules use Python floats, which represent integers exactly up to 2^53."""


def checked_count(owner: str, name: str, value: Any, low: int = 0, bits: int = COUNT_BITS) -> int:
    """Return the count `value` as a Python integer.

    Raises:
        ArgumentError: If `value` is not an integral number in [low, 2^bits).
    """
    number = as_number(value)
    if number is None or not low <= number < 2**bits or number != int(number):
        raise ArgumentError(f"{owner}: {name} must be an integer in [{low}, 2^{bits}), got {short(value)}.")
    return int(number)


def as_number(value: Any) -> int | float | None:
    """Return the value of a number or of a tensor of shape () or (1,), or None for other objects, including bools."""
    if isinstance(value, Tensor):
        if not _is_number_tensor(value):
            return None
        value = value.item()
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, float, np.integer, np.floating)):
        return None
    return value.item() if isinstance(value, np.generic) else value


def is_dense(x: Tensor) -> bool:
    """Return True if `x` is a strided tensor, possibly on the meta device, that is neither quantized nor nested."""
    return x.layout == torch.strided and not x.is_quantized and not x.is_nested


def _is_number_tensor(x: Tensor) -> bool:
    return (
        is_dense(x)
        and x.device.type != "meta"
        and x.dtype != torch.bool
        and not x.is_complex()
        and x.numel() == 1
        and x.dim() < 2
    )


def short(value: Any) -> str:
    """Format a value for a message, abbreviated to 80 characters."""
    if isinstance(value, Tensor):
        return _describe_tensor(value)
    if isinstance(value, int) and value.bit_length() > 128:
        return f"an integer of {value.bit_length()} bits"
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _describe_tensor(x: Tensor) -> str:
    if x.is_quantized:
        return "a quantized tensor"
    if x.is_nested:
        return "a nested tensor"
    if x.layout != torch.strided:
        return f"a tensor of layout {x.layout}"
    if x.device.type == "meta":
        return "a tensor on the meta device"
    if x.numel() == 1 and x.dim() < 2:
        return f"{x.item()!r} in {x.dtype}"
    return f"a tensor of shape {tuple(x.shape)} and {x.dtype}"
