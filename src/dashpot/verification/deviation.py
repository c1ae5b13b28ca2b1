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
        a, b = _wide(_real(found)), _wide(_real(expected))
        apart = (a - b).abs_()
        worst = _largest(apart)
        if not math.isfinite(worst):
            same = (a == b) | (a.isnan() & b.isnan())
            apart = torch.where(same, 0.0, apart).nan_to_num_(nan=math.inf, posinf=math.inf)
            worst = _largest(apart)
        if worst == 0:
            return Distance(0.0, 0.0)
        largest = _largest(b.abs())
        relative = worst / largest if 0 < largest < math.inf else math.inf
        magnitude = self._largest[name]
        return Distance(
            _largest(apart.div_(_power_of_two(magnitude))) / torch.finfo(magnitude.dtype).eps,
            relative,
        )


def is_finite(weights: Weights) -> bool:
    """Whether all weights are."""
    return all(math.isfinite(float(end)) for w in weights.values() if w.numel() for end in _real(w).aminmax())


def _real(x: Tensor) -> Tensor:
    x = x.detach().cpu() if x.device.type == "mps" else x.detach()  # MPS has no float64
    return torch.view_as_real(x) if x.is_complex() else x


def _wide(x: Tensor) -> Tensor:
    """In at least float32."""
    return x.float() if torch.finfo(x.dtype).bits < 32 else x


def _largest(x: Tensor) -> float:
    return float(x.max()) if x.numel() else 0.0


def _power_of_two(magnitude: Tensor) -> Tensor:
    """The power of two at or below each number, that of a normal number at least; eps times it is the distance to the
    next number."""
    bits = {16: torch.int16, 32: torch.int32, 64: torch.int64}[torch.finfo(magnitude.dtype).bits]
    exponent = torch.tensor(math.inf, dtype=magnitude.dtype, device=magnitude.device).view(bits)
    power = (magnitude.view(bits) & exponent).view(magnitude.dtype)
    return _wide(power.clamp_(min=torch.finfo(magnitude.dtype).tiny))
