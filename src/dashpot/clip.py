"""Gradient clipping by total norm and by value, as pure functions.

The functions return the same values as torch.nn.utils.clip_grad_norm_ and clip_grad_value_ but do not modify gradients
in place.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from dashpot.constraints import POSITIVE, Interval, check, shown
from dashpot.errors import ArgumentError
from dashpot.utils.scalars import is_number

__all__ = ["clip_by_norm", "clip_by_value", "norm_factor", "total_norm"]

_GUARD = 1e-6  # as in torch: keeps the factor finite for a zero norm


def total_norm(gradients: Iterable[Tensor], norm_type: float = 2.0) -> Tensor:
    """Return the p-norm over all elements of all gradients.

    Args:
        gradients: Tensors of any shape.
        norm_type: p > 0, or infinity for the maximum absolute value.

    Returns:
        A 0-d tensor, which is 0 if `gradients` is empty.

    Raises:
        ArgumentError: If `norm_type` is not positive.

    >>> total_norm([torch.tensor([3.0]), torch.tensor([[4.0]])])
    tensor(5.)
    """
    if not (is_number(norm_type) and norm_type > 0):
        raise ArgumentError(f"total_norm: norm_type must be a positive number or infinity, got {shown(norm_type)}.")
    norms = [torch.linalg.vector_norm(g, norm_type) for g in gradients]
    if not norms:
        return torch.tensor(0.0)
    return torch.linalg.vector_norm(torch.stack([n.to(norms[0].device) for n in norms]), norm_type)


def norm_factor(norm: Tensor, max_norm: float) -> Tensor:
    """Return the common factor on all gradients, min(1, max_norm/(norm + 1e-6)), or 1 if `max_norm` is infinite.

    >>> norm_factor(torch.tensor(0.5), max_norm=1.0)
    tensor(1.)
    """
    check("norm_factor", "max_norm", max_norm, Interval(0, math.inf, "right"))
    if is_number(max_norm) and max_norm == math.inf:
        return torch.ones_like(norm)
    return (max_norm / (norm + _GUARD)).clamp(max=1.0)


def clip_by_norm(
    gradients: Iterable[Tensor], max_norm: float, norm_type: float = 2.0, *, error_if_nonfinite: bool = False
) -> tuple[list[Tensor], Tensor]:
    """Return new gradients with a total norm of at most `max_norm`, and the norm before clipping.

    Args:
        gradients: Tensors of any shape.
        max_norm: Upper bound on the total norm, > 0. Infinity leaves all gradients unchanged, even infinite entries.
        norm_type: p > 0, or infinity.
        error_if_nonfinite: If True, raise `ArgumentError` for a nan or infinite norm. Otherwise, as in torch, an
            infinite norm maps finite entries to 0 and infinite ones to nan, and a nan norm maps all entries to nan.

    >>> clipped, norm = clip_by_norm([torch.tensor([3.0]), torch.tensor([4.0])], max_norm=2.5)
    >>> [round(g.item(), 4) for g in clipped], norm.item()
    ([1.5, 2.0], 5.0)
    """
    gradients = list(gradients)  # an iterator could be read only once
    norm = total_norm(gradients, norm_type)
    if error_if_nonfinite and not math.isfinite(norm.item()):
        raise ArgumentError(f"clip_by_norm: the norm of the gradients must be finite, got {norm.item()}.")
    factor = norm_factor(norm, max_norm)
    return [g * factor.to(g.device) for g in gradients], norm


def clip_by_value(gradients: Iterable[Tensor], limit: float) -> list[Tensor]:
    """Return new gradients with every element clamped to [-limit, limit]; nan is preserved.

    >>> clip_by_value([torch.tensor([-2.0, 0.5])], limit=1.0)
    [tensor([-1.0000,  0.5000])]
    """
    check("clip_by_value", "limit", limit, POSITIVE)
    return [g.clamp(-limit, limit) for g in gradients]
