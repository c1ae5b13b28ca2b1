"""Random probes: a pure function of (seed, number of the product, number of the tensor, element).

There is no generator with a state. A resumed run draws what the uninterrupted one would have drawn, every process of a
distributed run draws the same without telling the others, and the piece of a tensor that a process holds gets exactly
the piece of the whole tensor's probe.
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

__all__ = ["DISTRIBUTIONS", "draw", "draws", "shrunk"]

DISTRIBUTIONS = OneOf(("rademacher", "gaussian"))

_PROBES = 0x50524F42  # keeps these streams apart from those of stochastic rounding, which start with a step count
_SMALL = 2**16
_UNIT = 2.0**-31
_MAGNITUDE = 0x7FFFFFFF


def draws(distribution: str, seed: int, number: int, params: Sequence[Tensor], ordinals: Sequence[int]) -> list[Tensor]:
    """A probe for each parameter: its entries are independent, of mean 0 and variance 1.

    Args:
        distribution: "rademacher", +1 or -1 with equal chance, or "gaussian". Rademacher has the smaller variance.
        seed: integer in [0, 2^63).
        number: which draw of the run this is: 0, 1, ...
        params: parameters, real or complex; of a DTensor the piece in this process is drawn.
        ordinals: the number of each parameter among all of the optimizer.

    Returns:
        Tensors in the parameters' dtypes and shapes; complex entries have independent real and imaginary parts.

    >>> draws("rademacher", 0, 0, [torch.zeros(6)], [0])[0].abs()
    tensor([1., 1., 1., 1., 1., 1.])
    """
    base = stream(seed_word(seed), _PROBES, number)
    words = mix(base, torch.tensor(ordinals, dtype=torch.int32, device="cpu")).unbind()
    alike: dict[Any, list[int]] = {}
    for i, p in enumerate(params):  # small tensors are drawn together: they cost their calls
        small = not is_dtensor(p) and not p.is_complex() and p.numel() <= _SMALL
        alike.setdefault((p.device, compute_dtype(p.dtype)) if small else i, []).append(i)
    found: dict[int, Tensor] = {}
    for positions in alike.values():
        some = [params[i] for i in positions]
        found.update(zip(positions, _drawn(distribution, [words[i] for i in positions], some), strict=True))
    return [found[i] for i in range(len(params))]


def _drawn(distribution: str, words: Sequence[Tensor], params: Sequence[Tensor]) -> list[Tensor]:
    """The probes of parameters of one device and precision."""
    if len(params) == 1:
        return [draw(distribution, words[0], params[0])]
    places = [_places(p) for p in params]
    sizes = torch.tensor([place.numel() for place in places], device="cpu")
    every = torch.stack(list(words)).repeat_interleave(sizes).to(params[0].device)
    index = torch.cat([place.reshape(-1) for place in places])
    values = _values(distribution, every, index, compute_dtype(params[0].dtype)).split(sizes.tolist())
    return [_like(p, piece.view(place.shape)) for p, piece, place in zip(params, values, places, strict=True)]


def shrunk(probes: Sequence[Tensor], scale: float) -> tuple[list[Tensor], float]:
    """(probes over most of a loss scale, the rest of it, to divide products by).

    The graph of a scaled loss carries the factor, and float16 has no room for it beside a product. Nor has it room for
    probes over a large factor, so that half precision divides by 1024 at most.
    """
    half = any(v.dtype.itemsize < 4 and not v.is_complex() for v in probes)
    share = min(scale, 1024.0) if half else scale
    return [v if share == 1 else v / share for v in probes], scale / share


def draw(distribution: str, word: Tensor, p: Tensor) -> Tensor:
    """The probe of one parameter from its stream of random numbers (`word`, an int32 tensor).

    Raises `ArgumentError` for 2^31 numbers or more, which 32 bits do not number.

    A `word` of more dimensions, the last ones those of `p`, gives a probe for each of many streams.
    """
    piece = local(p)
    return _like(piece, _values(distribution, word.to(piece.device), _places(p), compute_dtype(piece.dtype)))


def _values(distribution: str, word: Tensor, index: Tensor, real: torch.dtype) -> Tensor:
    """Elements `index` of the streams `word`, which broadcast with each other."""
    if distribution == "rademacher":
        return 1 - 2 * (bits(index, word) & 1).to(real)
    two = torch.arange(2, dtype=torch.int32, device=word.device).view(2, *[1] * max(index.dim(), word.dim()))
    size, angle = _uniform(bits(index, mix(word, two)), real)
    return torch.sqrt(-2 * torch.log(size)) * torch.cos(2 * math.pi * angle)


def _like(p: Tensor, values: Tensor) -> Tensor:
    return (torch.view_as_complex(values) if p.is_complex() else values).to(p.dtype)


def _uniform(words: Tensor, dtype: torch.dtype) -> Tensor:
    """Numbers in (0, 1] from 31 of the random bits; never 0, whose logarithm is infinite."""
    return ((words & _MAGNITUDE).to(dtype) + 0.5) * _UNIT


def _places(p: Tensor) -> Tensor:
    """The number of each element (real and imaginary parts apart) in the whole parameter, row by row, int32.

    Of a DTensor, the numbers of the elements that are here.
    """
    shape = (*p.shape, 2) if p.is_complex() else tuple(p.shape)
    device = local(p).device
    if math.prod(shape) >= 2**31:
        raise ArgumentError(f"draws: a parameter must have fewer than 2^31 numbers, got shape {tuple(p.shape)}.")
    every = torch.arange(math.prod(shape), dtype=torch.int32, device=device).view(shape)
    if not is_dtensor(p):
        return every
    from torch.distributed.tensor import distribute_tensor

    x = cast(Any, p)
    return local(distribute_tensor(every, x.device_mesh, x.placements, src_data_rank=None))
