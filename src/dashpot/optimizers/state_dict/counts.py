"""Numbers that count: steps and products, in the groups and in the state of each parameter."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from dashpot.errors import ArgumentError

__all__ = ["COUNT_BITS", "checked_count", "is_dense", "one_number", "short"]

COUNT_BITS = 53
"""Counts are below 2^53: whole numbers up to there are exact as Python floats, in which schedules compute."""


def checked_count(owner: str, name: str, value: Any, low: int = 0, bits: int = COUNT_BITS) -> int:
    """`value` as a Python integer; `ArgumentError` for anything but a whole number in [low, 2^bits)."""
    number = one_number(value)
    if number is None or not low <= number < 2**bits or number != int(number):
        raise ArgumentError(f"{owner}: {name} must be an integer in [{low}, 2^{bits}), got {short(value)}.")
    return int(number)


def one_number(value: Any) -> int | float | None:
    """The value of a number or of a tensor of shape () or (1,); None for everything else, bools included."""
    if isinstance(value, Tensor):
        if not _holds_a_number(value):
            return None
        value = value.item()
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, float, np.integer, np.floating)):
        return None
    return value.item() if isinstance(value, np.generic) else value


def is_dense(x: Tensor) -> bool:
    """True for a tensor with one number in memory for each element, or on the meta device none."""
    return x.layout == torch.strided and not x.is_quantized and not x.is_nested


def _holds_a_number(x: Tensor) -> bool:
    return (
        is_dense(x)
        and x.device.type != "meta"
        and x.dtype != torch.bool
        and not x.is_complex()
        and x.numel() == 1
        and x.dim() < 2
    )


def short(value: Any) -> str:
    """A value in a message, however long it is."""
    if isinstance(value, Tensor):
        return _of_tensor(value)
    if isinstance(value, int) and value.bit_length() > 128:
        return f"an integer of {value.bit_length()} bits"
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _of_tensor(x: Tensor) -> str:
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
