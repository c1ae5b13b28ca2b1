"""How far two sets of weights are apart, in units that make sense after many steps."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Distance", "Scale", "is_finite"]

Weights = Mapping[str, Tensor]


class Distance(NamedTuple):
    """How far two tensors are apart: the worst element in ulps, and relative to the largest weight of the tensor."""

    ulps: float
    relative: float


class Scale:
    """The largest magnitude that each weight of the reference has had so far.

    An ulp is counted at this magnitude: a weight that passes through zero has been rounded at its former size, so that
    the spacing of numbers at its present size says nothing about what rounding can do to it.
    """

    def __init__(self, weights: Weights) -> None:
        self._largest = {name: _real(w).abs() for name, w in weights.items()}  # abs makes a copy

    def grow(self, weights: Weights) -> None:
        """Take a further step of the reference into account."""
        for name, w in weights.items():
            torch.maximum(self._largest[name], _real(w).abs(), out=self._largest[name])

    def distances(self, found: Weights, expected: Weights) -> dict[str, Distance]:
        """Of every tensor, by name."""
        return {name: self._distance(name, found[name], w) for name, w in expected.items()}

    def _distance(self, name: str, found: Tensor, expected: Tensor) -> Distance:
        if expected.numel() == 0:
            return Distance(0.0, 0.0)
        a, b = _real(found).double(), _real(expected).double()
        same = (a == b) | (a.isnan() & b.isnan())
        apart = torch.where(same, 0.0, (a - b).abs()).nan_to_num(nan=math.inf, posinf=math.inf)
        largest = float(b.abs().max())
        worst = float(apart.max())
        relative = 0.0 if worst == 0 else worst / largest if 0 < largest < math.inf else math.inf
        return Distance(float((apart / _spacing(self._largest[name])).max()), relative)


def is_finite(weights: Weights) -> bool:
    """Whether all weights are."""
    return all(bool(torch.isfinite(w).all()) for w in weights.values())


def _real(x: Tensor) -> Tensor:
    x = x.detach().cpu() if x.device.type == "mps" else x.detach()  # MPS has no float64
    return torch.view_as_real(x) if x.is_complex() else x


def _spacing(magnitude: Tensor) -> Tensor:
    """The distance between neighbouring numbers of the tensor's dtype at that magnitude, at least a normal number."""
    info = torch.finfo(magnitude.dtype)
    exponent = torch.frexp(magnitude.double().clamp(min=info.tiny))[1]
    return torch.ldexp(torch.full_like(magnitude, info.eps, dtype=torch.float64), exponent - 1)
