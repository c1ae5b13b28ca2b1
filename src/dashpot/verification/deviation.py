"""Distance between two sets of weights, in units that remain meaningful after many steps."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

Weights = Mapping[str, Tensor]


class Distance(NamedTuple):
    """Largest difference between two tensors of weights, in ulps and as a fraction of the largest weight."""

    ulps: float
    relative: float


class UlpScale:
    """Unit of distances (ulp), based on the largest magnitude that each weight of the reference has had so far.

    An ulp is the spacing of floating-point numbers at this largest magnitude. The spacing at the current magnitude
    would not bound rounding errors, since a weight near zero may previously have been rounded at a larger magnitude.
    """

    def __init__(self, weights: Weights) -> None:
        self._largest = {name: _real(w).abs() for name, w in weights.items()}  # abs makes a copy

    def update(self, weights: Weights) -> None:
        """Include the weights of the reference after a further step."""
        for name, w in weights.items():
            torch.maximum(self._largest[name], _real(w).abs(), out=self._largest[name])

    def distances(self, actual: Weights, expected: Weights) -> dict[str, Distance]:
        """Return a mapping from the name of each tensor to the distance between its actual and expected values."""
        return {name: self._distance(name, actual[name], w) for name, w in expected.items()}

    def _distance(self, name: str, actual: Tensor, expected: Tensor) -> Distance:
        a, b = _at_least_float32(_real(actual)), _at_least_float32(_real(expected))
        difference = (a - b).abs_()
        worst = _max(difference)
        if not math.isfinite(worst):
            same = (a == b) | (a.isnan() & b.isnan())
            difference = torch.where(same, 0.0, difference).nan_to_num_(nan=math.inf, posinf=math.inf)
            worst = _max(difference)
        if worst == 0:
            return Distance(0.0, 0.0)
        largest = _max(b.abs())
        magnitude = self._largest[name]
        ulps = _max(difference.div_(_power_of_two(magnitude))) / torch.finfo(magnitude.dtype).eps
        return Distance(ulps, worst / largest if 0 < largest < math.inf else math.inf)


def is_finite(weights: Weights) -> bool:
    """Return whether all weights are finite."""
    return all(math.isfinite(float(end)) for w in weights.values() if w.numel() for end in _real(w).aminmax())


def _real(x: Tensor) -> Tensor:
    x = x.detach().cpu() if x.device.type == "mps" else x.detach()  # MPS has no float64
    return torch.view_as_real(x) if x.is_complex() else x


def _at_least_float32(x: Tensor) -> Tensor:
    return x.float() if torch.finfo(x.dtype).bits < 32 else x


def _max(x: Tensor) -> float:
    return float(x.max()) if x.numel() else 0.0


def _power_of_two(magnitude: Tensor) -> Tensor:
    """Return, for each number, the largest normal power of two <= the number.

    This power multiplied by the eps of the dtype is the spacing of floating-point numbers.
    """
    bits = {16: torch.int16, 32: torch.int32, 64: torch.int64}[torch.finfo(magnitude.dtype).bits]
    exponent = torch.tensor(math.inf, dtype=magnitude.dtype, device=magnitude.device).view(bits)
    power = (magnitude.view(bits) & exponent).view(magnitude.dtype)
    return _at_least_float32(power.clamp_(min=torch.finfo(magnitude.dtype).tiny))
