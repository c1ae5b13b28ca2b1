"""Float64 accumulation for quantities that overflow in float32: squared norms and sums."""

from __future__ import annotations

import torch
from torch import Tensor


def wide_dtype(x: Tensor) -> torch.dtype:
    """Return the dtype for sums over `x`: float64, or the dtype of `x` on devices without float64."""
    return x.dtype if isinstance(x, Tensor) and x.device.type == "mps" else torch.float64


def wide(x: Tensor) -> Tensor:
    """Return `x` in `wide_dtype`, so that its norm can exceed the float32 range.

    >>> torch.linalg.vector_norm(wide(torch.full((4,), 3e38)))
    tensor(6.0000e+38, dtype=torch.float64)
    """
    return x.to(wide_dtype(x))


def narrow(x: Tensor, like: Tensor) -> Tensor:
    """Clamp `x` >= 0 to the largest finite value of the dtype of `like`, in which `x` will be stored."""
    return x.clamp_max(torch.finfo(like.dtype).max)
