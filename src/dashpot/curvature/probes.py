"""Counter-based random probes: pure functions of (seed, index of the draw, index of the tensor, index of the element).

Since there is no generator state, a resumed run draws the same probes as an uninterrupted run, all ranks of a
distributed run draw the same probes without communication, and each shard of a tensor receives the corresponding shard
of the probe.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor

from dashpot.constraints import OneOf
from dashpot.engine.dtensor import is_dtensor, local
from dashpot.engine.program import compute_dtype
from dashpot.engine.rounding import bits, mix, seed_word, stream
from dashpot.errors import ArgumentError

DISTRIBUTIONS = OneOf(("rademacher", "gaussian"))

_PROBES = 0x50524F42  # separates these streams from the streams for stochastic rounding, whose keys begin with a step
_SMALL = 2**16
_UNIT = 2.0**-31
_MAGNITUDE = 0x7FFFFFFF


def draw_probes(
    distribution: str, seed: int, number: int, params: Sequence[Tensor], ordinals: Sequence[int]
) -> list[Tensor]:
    """Draw a probe for each parameter, with independent entries of mean 0 and variance 1.

    Args:
        distribution: "rademacher", +1 or -1 with equal probability, or "gaussian". Rademacher probes have the smaller
            variance.
        seed: Integer in [0, 2^63).
        number: Index of the draw in this run: 0, 1, ...
        params: Real or complex parameters. For a DTensor, only the local shard of the probe is drawn.
        ordinals: Index of each parameter among all parameters of the optimizer.

    Returns:
        Tensors with the dtypes and shapes of the parameters; complex entries have independent real and imaginary parts.

    >>> draw_probes("rademacher", 0, 0, [torch.zeros(6)], [0])[0].abs()
    tensor([1., 1., 1., 1., 1., 1.])
    """
    base = stream(seed_word(seed), _PROBES, number)
    words = mix(base, torch.tensor(ordinals, dtype=torch.int32, device="cpu")).unbind()
    alike: dict[Any, list[int]] = {}
    for i, p in enumerate(params):  # draw small tensors in batches, since call overhead dominates their cost
        small = not is_dtensor(p) and not p.is_complex() and p.numel() <= _SMALL
        alike.setdefault((p.device, compute_dtype(p.dtype)) if small else i, []).append(i)
    found: dict[int, Tensor] = {}
    for positions in alike.values():
        some = [params[i] for i in positions]
        found.update(zip(positions, _drawn(distribution, [words[i] for i in positions], some), strict=True))
    return [found[i] for i in range(len(params))]


def _drawn(distribution: str, words: Sequence[Tensor], params: Sequence[Tensor]) -> list[Tensor]:
    """Draw the probes of parameters with the same device and precision."""
    if len(params) == 1:
        return [draw(distribution, words[0], params[0])]
    places = [_indices(p) for p in params]
    sizes = torch.tensor([place.numel() for place in places], device="cpu")
    every = torch.stack(list(words)).repeat_interleave(sizes).to(params[0].device)
    index = torch.cat([place.reshape(-1) for place in places])
    values = _values(distribution, every, index, compute_dtype(params[0].dtype)).split(sizes.tolist())
    return [_like(p, piece.view(place.shape)) for p, piece, place in zip(params, values, places, strict=True)]


def scaled_probes(probes: Sequence[Tensor], scale: float) -> tuple[list[Tensor], float]:
    """Return probes divided by one factor of the loss scale, and the other factor, which must divide the products.

    Hessian-vector products of a scaled loss contain the scale and would overflow in float16. In half precision, probes
    are divided by at most 1024, to avoid underflow.
    """
    half = any(v.dtype.itemsize < 4 and not v.is_complex() for v in probes)
    share = min(scale, 1024.0) if half else scale
    return [v if share == 1 else v / share for v in probes], scale / share


def draw(distribution: str, word: Tensor, p: Tensor) -> Tensor:
    """Draw the probe of one parameter from its RNG key `word`, an int32 tensor.

    If `word` has additional leading dimensions, one probe is drawn for each key.

    Raises:
        ArgumentError: If the parameter has 2^31 numbers or more.
    """
    piece = local(p)
    return _like(piece, _values(distribution, word.to(piece.device), _indices(p), compute_dtype(piece.dtype)))


def _values(distribution: str, word: Tensor, index: Tensor, real: torch.dtype) -> Tensor:
    """Return elements `index` of the streams `word`, broadcast against each other."""
    if distribution == "rademacher":
        return 1 - 2 * (bits(index, word) & 1).to(real)
    two = torch.arange(2, dtype=torch.int32, device=word.device).view(2, *[1] * max(index.dim(), word.dim()))
    size, angle = _uniform(bits(index, mix(word, two)), real)
    return torch.sqrt(-2 * torch.log(size)) * torch.cos(2 * math.pi * angle)


def _like(p: Tensor, values: Tensor) -> Tensor:
    return (torch.view_as_complex(values) if p.is_complex() else values).to(p.dtype)


def _uniform(words: Tensor, dtype: torch.dtype) -> Tensor:
    """Convert words of 31 random bits to numbers in (0, 1]; 0 is excluded because its logarithm is infinite."""
    return ((words & _MAGNITUDE).to(dtype) + 0.5) * _UNIT


def _indices(p: Tensor) -> Tensor:
    """Return the row-major int32 index of each number (real and imaginary parts separately) in the whole parameter.

    For a DTensor, only the indices of the local shard are returned.
    """
    shape = (*p.shape, 2) if p.is_complex() else tuple(p.shape)
    device = local(p).device
    if math.prod(shape) >= 2**31:
        raise ArgumentError(f"draw_probes: a parameter must have fewer than 2^31 numbers, got shape {tuple(p.shape)}.")
    every = torch.arange(math.prod(shape), dtype=torch.int32, device=device).view(shape)
    if not is_dtensor(p):
        return every
    from torch.distributed.tensor import distribute_tensor

    x = cast(Any, p)
    return local(distribute_tensor(every, x.device_mesh, x.placements, src_data_rank=None))
