"""Roots, powers and quotients whose derivatives are finite at zero.

A root has an infinite derivative at zero, and a `torch.where` passes the NaN of the branch that it does not take. So
where derivatives are taken, an argument of exactly zero is replaced by a constant before the operation. The values are
those of the plain operation, to the bit; where nothing is differentiated, and in a kernel, it is the plain operation.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dashpot._torch_private import is_forward_ad_active

__all__ = ["nonzero", "over", "power", "root"]


def _differentiated(x: Any) -> bool:
    """True where torch may take derivatives, backward or forward; never for the symbols of a trace."""
    return isinstance(x, Tensor) and (torch.is_grad_enabled() or is_forward_ad_active())


def root(x: Tensor) -> Tensor:
    """The square root, with derivative 0 at 0.

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
    """`x` >= 0 to a power, with derivative 0 with respect to `x` at 0."""
    if not _differentiated(x):
        return x**exponent
    zero = x == 0
    return torch.where(zero, torch.zeros_like(x) ** exponent, torch.where(zero, 1.0, x) ** exponent)


def nonzero(x: Tensor) -> Tensor:
    """`x` for a denominator of which zeros are not used: there 1 where derivatives are taken."""
    return torch.where(x == 0, 1.0, x) if _differentiated(x) else x


def over(v: Tensor, d: Tensor | float) -> Tensor:
    """v / d, with 0/0 = 0 where `v` is exactly zero: an element that never had a gradient does not move.

    The derivative is 1/d with respect to `v` where d is not zero, and 0 at 0/0.
    """
    if not _differentiated(v):
        return torch.where(v == 0, v, v / d)
    d = d if isinstance(d, Tensor) else torch.full_like(v, d)
    undefined = (v == 0) & ~(d.abs() > 0)  # a nan as well
    return torch.where(undefined, 0 * v, v / torch.where(undefined, 1.0, d))
