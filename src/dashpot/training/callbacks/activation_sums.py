"""Sums over the outputs of a layer, from which its statistics are computed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dashpot.errors import ArgumentError
from dashpot.utils.scalars import scalar_dtype

_CHUNK = 2**23
"""Number of elements per call of `torch.histc`, whose float32 counts are exact up to 2^24."""


@dataclass
class Sums:
    """Statistics of one layer in one step, over all calls, micro-batches and ranks.

    Attributes:
        totals: Number of outputs, their sum, the sum of their squares, the number near zero, and the counts of the
            histogram.
        alive: For each unit, whether any of its outputs is not near zero; None if the outputs have no unit dimension.
    """

    totals: Tensor
    alive: Tensor | None

    def __add__(self, other: Sums) -> Sums:
        alive = None
        if self.alive is not None and other.alive is not None and self.alive.shape == other.alive.shape:
            alive = self.alive | other.alive
        return Sums(self.totals + other.totals, alive)

    def row(self) -> Tensor:
        """Return the number, sum, sum of squares, zeros, share of dead units and histogram as one CPU tensor."""
        dead = torch.tensor([math.nan if self.alive is None else 1 - float(self.alive.float().mean())])
        totals = self.totals.to("cpu", torch.float64)
        return torch.cat([totals[:4], dead.double(), totals[4:]])


@torch.no_grad()
def measure(output: Any, name: str, threshold: float, bins: int, limits: tuple[float, float]) -> Sums:
    """Return the sums over one output of a layer.

    Args:
        output: Output of the layer; of a tuple or list, the first item is used.
        name: Name of the layer, for error messages.
        threshold: Largest absolute value near zero.
        bins: Number of bins of the histogram.
        limits: Lower and upper limit of the histogram.

    Raises:
        ArgumentError: If the output is not a floating-point tensor.
    """
    x = output[0] if isinstance(output, (tuple, list)) and output else output
    if not isinstance(x, Tensor) or not x.is_floating_point():
        got = f"dtype {x.dtype}" if isinstance(x, Tensor) else type(x).__name__
        raise ArgumentError(f"Activations: the output of layer {name} must be a floating-point tensor, got {got}.")
    x = x.detach()
    x = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    size, number, wide = x.abs(), x.numel(), scalar_dtype(x.device)
    alive = None
    if x.dim() > 1:
        largest = size.amax([0, *range(2, x.dim())]) if number else size.new_zeros(x.shape[1])
        alive = ~(largest <= threshold)  # NaN is not near zero
    mean = x.mean() if number else x.new_zeros(())
    square = (x - mean).square().mean().to(wide) + mean.to(wide) ** 2 if number else mean.to(wide)
    zeros = (size <= threshold).count_nonzero()
    head = torch.stack([torch.full_like(square, number), mean.to(wide) * number, square * number, zeros.to(wide)])
    return Sums(torch.cat([head, histogram(x, bins, limits)]), alive)


def histogram(x: Tensor, bins: int, limits: tuple[float, float]) -> Tensor:
    """Return the counts of the histogram of `x`; NaN is not counted."""
    low, high = limits
    counts = torch.zeros(bins, device=x.device, dtype=scalar_dtype(x.device))
    for part in x.flatten().clamp(low, high).split(_CHUNK):
        if torch.are_deterministic_algorithms_enabled():  # histc is not, on CUDA
            place = (part[~part.isnan()] - low) * (bins / (high - low))
            counts += place.long().clamp(max=bins - 1).bincount(minlength=bins)
        else:
            counts += torch.histc(part, bins, low, high)
    return counts


def on_cpu(sums: Mapping[str, Sums]) -> dict[str, Sums]:
    """Return copies of the sums on the CPU."""
    return {
        name: Sums(item.totals.cpu(), None if item.alive is None else item.alive.cpu()) for name, item in sums.items()
    }


def combine(ranks: Sequence[Sequence[tuple[int, dict[str, Sums]]]]) -> Iterator[tuple[int, dict[str, Sums]]]:
    """Yield the steps with the sums over all ranks."""
    for steps in zip(*ranks, strict=True):
        combined: dict[str, Sums] = {}
        for _, sums in steps:
            for name, item in sums.items():
                combined[name] = combined[name] + item if name in combined else item
        yield steps[0][0], combined
