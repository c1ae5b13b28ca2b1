"""Roots, powers and quotients with finite derivatives at zero.

The square root has an infinite derivative at zero, and `torch.where` propagates NaN from the unselected branch. If
derivatives are required, an argument of exactly zero is therefore replaced by a constant before the operation. Values
are bit-identical to the plain operation, which is used without differentiation and in kernels.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dashpot._torch_private import is_forward_ad_active


def _differentiated(x: Any) -> bool:
    """Return True if torch may differentiate `x`, in reverse or forward mode; False for symbols of a trace."""
    return isinstance(x, Tensor) and (torch.is_grad_enabled() or is_forward_ad_active())


def root(x: Tensor) -> Tensor:
    """Return the square root, with derivative 0 at 0.

    >>> x = torch.zeros(1, requires_grad=True)
    >>> root(x).sum().backward()
    >>> x.grad
    tensor([0.])
    """
    if not _differentiated(x):
        return torch.sqrt(x)
    zero = x == 0
    return torch.where(zero, torch.zeros_like(x), torch.sqrt(torch.where(zero, 1.0, x)))


def power(x: Tensor, exponent: Any) -> Tensor:
    """Return `x` >= 0 raised to `exponent`, with derivative 0 with respect to `x` at 0."""
    if not _differentiated(x):
        return x**exponent
    zero = x == 0
    return torch.where(zero, torch.zeros_like(x) ** exponent, torch.where(zero, 1.0, x) ** exponent)


def nonzero(x: Tensor) -> Tensor:
    """Return `x` with zeros replaced by 1 if derivatives are required, for use as a masked denominator."""
    return torch.where(x == 0, 1.0, x) if _differentiated(x) else x


def over(v: Tensor, d: Tensor | float) -> Tensor:
    """Return v / d with 0/0 = 0, so that an element whose gradients were all zero is not updated.

    The derivative with respect to `v` is 1/d for nonzero d and 0 at 0/0.
    """
    if not _differentiated(v):
        return torch.where(v == 0, v, v / d)
    d = d if isinstance(d, Tensor) else torch.full_like(v, d)
    undefined = (v == 0) & ~(d.abs() > 0)  # includes nan
    return torch.where(undefined, 0 * v, v / torch.where(undefined, 1.0, d))
