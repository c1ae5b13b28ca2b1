"""Float64 for what overflows in float32: the squares in a norm, and sums."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["narrow", "wide", "wide_dtype"]


def wide_dtype(x: Tensor) -> torch.dtype:
    """The dtype in which to sum over `x`: float64, or its own on a device without it."""
    return x.dtype if isinstance(x, Tensor) and x.device.type == "mps" else torch.float64


def wide(x: Tensor) -> Tensor:
    """`x` in `wide_dtype`, so that its norm may be larger than any float32 number.

    >>> torch.linalg.vector_norm(wide(torch.full((4,), 3e38)))
    tensor(6.0000e+38, dtype=torch.float64)
    """
    return x.to(wide_dtype(x))


def narrow(x: Tensor, like: Tensor) -> Tensor:
    """`x` >= 0, at most the largest finite number of the dtype of `like`, in which it is going to be stored."""
    return x.clamp_max(torch.finfo(like.dtype).max)
