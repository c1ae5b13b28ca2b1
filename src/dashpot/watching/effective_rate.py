"""Effective learning rate of a measured change: its regression on the direction and on the weight."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

_COLLINEAR = 1e-6  # 1 - correlation^2 of direction and weight below which their coefficients are not separable
_POWER = 1e-6  # largest distance of a binary logarithm from an integer


class Applied(NamedTuple):
    """Coefficients of a change dw = -rate * direction - decay * w.

    Attributes:
        rate: Effective learning rate; None without a direction.
        decay: Fraction of the weight subtracted.
        unexplained: Norm of the remainder relative to the norm of the change; None for a change of 0.
    """

    rate: float | None
    decay: float | None
    unexplained: float | None


def applied_rate(dw: Tensor, direction: Tensor, w: Tensor, decay: float) -> Applied:
    """Return the learning rate and decay that a change corresponds to, by least squares over the elements.

    Args:
        dw: Measured change of each element, float64.
        direction: Unit-gain filtered gradient over the denominators, float64.
        w: Weight before the change, float64.
        decay: Expected decay, used if the elements do not determine it: fewer than 8, or a direction proportional to
            the weight.

    Returns:
        The coefficients.

    Example:
        >>> u, w = torch.randn(2, 32, generator=torch.Generator().manual_seed(0)).double()
        >>> found = applied_rate(-0.1 * u - 0.01 * w, u, w, 0.0)
        >>> round(found.rate, 6), round(found.decay, 6)
        (0.1, 0.01)
    """
    uu, uw, ww = float(direction @ direction), float(direction @ w), float(w @ w)
    if uu == 0:
        return Applied(None, None, None)
    yu, yw = -float(dw @ direction), -float(dw @ w)
    determinant = uu * ww - uw**2
    if len(dw) >= 8 and determinant > _COLLINEAR * uu * ww:
        rate = (yu * ww - yw * uw) / determinant
        decay = (yw * uu - yu * uw) / determinant
    else:
        rate = (yu - decay * uw) / uu
    size = float(torch.linalg.vector_norm(dw))
    rest = dw + rate * direction + decay * w
    return Applied(rate, decay, float(torch.linalg.vector_norm(rest)) / size if size else None)


def sign_agreement(momentum: Tensor, gradient: Tensor) -> tuple[float | None, float | None]:
    """Return the share of elements with equal signs, and the cosine, of momentum and gradient.

    Elements at which either is 0 are excluded from the share. Independent directions have a share of 1/2 and a cosine
    near 0; oscillation gives less, a steady descent more.

    Returns:
        (share, cosine), None if undefined.

    Example:
        >>> sign_agreement(torch.tensor([1.0, 2.0, 0.0, -1.0]), torch.tensor([3.0, -1.0, 2.0, -1.0]))[0]
        0.6666666666666666
    """
    both = (momentum != 0) & (gradient != 0)
    share = float((momentum[both] * gradient[both] > 0).double().mean()) if bool(both.any()) else None
    sizes = float(torch.linalg.vector_norm(momentum)) * float(torch.linalg.vector_norm(gradient))
    return share, float(momentum @ gradient) / sizes if sizes else None


def clip_factor(before: Tensor, after: Tensor) -> float | None:
    """Return the factor by which clipping scaled a gradient; None if it was changed in a different way.

    A power of 2 is the factor of a gradient scaler, not of clipping.

    Args:
        before: Gradient after the backward pass.
        after: Gradient in the step.
    """
    square = float(before @ before)
    if square == 0 or not bool(before.isfinite().all() and after.isfinite().all()):
        return None
    factor = float(before @ after) / square
    rest = float(torch.linalg.vector_norm(after - factor * before))
    if factor > 0 and abs(math.log2(factor) - round(math.log2(factor))) < _POWER:
        return 1.0
    return factor if rest <= 1e-3 * abs(factor) * square**0.5 else None  # rounding of half-precision gradients
