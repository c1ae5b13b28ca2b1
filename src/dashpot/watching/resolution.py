"""Resolution of stored weights, and updates that rounding removes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def spacing(w: Tensor, dtype: torch.dtype, rounding: str = "nearest") -> Tensor:
    """Return the distance between neighbouring stored values at each weight, one ulp.

    With w = m 2^k and 1 <= |m| < 2, it is eps 2^k, and at least the smallest subnormal number. With
    `rounding="kahan"`, the rounding error is stored as a second number of magnitude <= ulp/2, whose own ulp is at most
    eps/4 times the first. With `rounding="stochastic"`, it is 0: the mean of the stored weight follows every update.

    Args:
        w: Weights, float64.
        dtype: Real dtype in which the weights are stored.
        rounding: "nearest", "kahan" or "stochastic".

    Returns:
        A tensor shaped like `w`.

    Example:
        >>> spacing(torch.tensor([1.0, 3.0]).double(), torch.bfloat16).tolist()
        [0.0078125, 0.015625]
    """
    if rounding == "stochastic":
        return torch.zeros_like(w)
    info = torch.finfo(dtype)
    _, exponent = torch.frexp(w.double())
    ulp = torch.ldexp(torch.full_like(w, info.eps), exponent - 1)
    if rounding == "kahan":
        ulp = ulp * info.eps / 4
    smallest = info.smallest_normal * info.eps
    return torch.where(w == 0, smallest, ulp.clamp_min(smallest))


def rounding_of(optimizer: Any, dtype: torch.dtype) -> str:
    """Return the rounding of the weights of a dtype by an optimizer of dashpot; "nearest" for others."""
    options = getattr(optimizer, "options", None)
    return "nearest" if options is None else options.storage(dtype).weight


def stalled_share(update: Tensor, w: Tensor, dtype: torch.dtype, rounding: str = "nearest") -> float | None:
    """Return the share of elements whose update is not 0, but smaller than half an ulp of the weight.

    Such an update has no effect on a weight that is rounded to nearest.

    Args:
        update: Exact updates, before rounding, float64.
        w: Weights before the update, float64.
        dtype: Real dtype in which the weights are stored.
        rounding: As in `spacing`.

    Returns:
        The share, or None without elements.

    Example:
        >>> update = torch.tensor([0.001, 0.01, 0.0]).double()
        >>> round(stalled_share(update, torch.ones(3).double(), torch.bfloat16), 4)
        0.3333
    """
    if not w.numel():
        return None
    lost = (update != 0) & (update.abs() < spacing(w, dtype, rounding) / 2)
    return float(lost.double().mean())
