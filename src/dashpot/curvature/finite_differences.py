"""Hessian-vector products by central differences of two gradients.

    H v = (g(w + e v) - g(w - e v))/(2 e) + O(e^2 |third derivative|) + O(u |g|/e)

where u is the roundoff of the gradients. The two errors are balanced if e is near the cube root of u times the length
over which gradients change. This length is estimated by the norm of the weights:

    e = cbrt(u) (1 + |w|)/|v|

where the norms are over all parameters. The Hessian-vector products of smooth networks have about ten correct digits in
float64 and four in float32. u is the roundoff of the gradient computation, which may be larger than the roundoff of the
weights: under bfloat16 autocast, products have errors of 30 to 60 % with the step length for float32, and of 2 to 25 %
with the step length for bfloat16.

If this accuracy is insufficient, set `relative_step`. The default step is too long if |w| is far below 1, or if |w| is
large but the function varies over a length of 1. For discontinuous gradients (ReLU), the difference includes all jumps
between the two points. The jumps contribute curvature of the expected loss that the second derivative omits, but the
variance of this contribution grows as 1/e; a `relative_step` of about 0.1 is then preferable.

Source: Nocedal and Wright, Numerical Optimization (2006), section 8.1; Andrei, Accelerated conjugate gradient algorithm
with finite difference Hessian/vector product approximation, J. Comput. Appl. Math. 230 (2009).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from dashpot.engine.dtensor import local
from dashpot.engine.eager import real_view
from dashpot.engine.sharding import ShardSpec, shard_spec


def relative_step_for(dtype: torch.dtype) -> float:
    """Return the cube root of the unit roundoff of a dtype.

    >>> [round(relative_step_for(dtype), 6) for dtype in (torch.float64, torch.float32, torch.bfloat16)]
    [5e-06, 0.003906, 0.15749]
    """
    return (torch.finfo(dtype).eps / 2) ** (1 / 3)


def step_length(params: Sequence[Tensor], probes: Sequence[Tensor], relative_step: float) -> float:
    """Return the factor e = `relative_step` (1 + |w|)/|v| by which the probes are multiplied to move the weights."""
    return relative_step * (1 + _norm(params, params)) / max(_norm(params, probes), 1e-30)


def _norm(params: Sequence[Tensor], values: Sequence[Tensor]) -> float:
    """Return the norm over all `values`, which are sharded like the parameters."""
    squares: dict[ShardSpec | None, list[Tensor]] = {}
    for p, value in zip(params, values, strict=True):
        square = real_view(local(value).detach()).to(torch.float64).square().sum()
        squares.setdefault(shard_spec(p), []).append(square)
    total = 0.0
    for spec, found in squares.items():
        here = torch.stack([square.to(found[0].device) for square in found]).sum()
        total += float(here if spec is None else spec.all_reduce(here))
    return math.sqrt(total)


def central_difference(
    gradients_here: Callable[[], Sequence[Tensor | None]],
    params: Sequence[Tensor],
    probes: Sequence[Tensor],
    length: float,
) -> list[Tensor | None]:
    """Return the products H v from the gradients at two points; the weights are restored exactly, even after an error.

    Args:
        gradients_here: Function that returns the gradients at the current weights.
        params: Parameters.
        probes: Local shards of the probes.
        length: Factor on the probes, as returned by `step_length`.

    Returns:
        Local shards of the products, with None for parameters without a gradient.
    """
    with _moved(params, probes, length):
        ahead = gradients_here()
    with _moved(params, probes, -length):
        behind = gradients_here()
    with torch.no_grad():
        return [None if a is None or b is None else (a - b) / (2 * length) for a, b in zip(ahead, behind, strict=True)]


@contextmanager
def _moved(params: Sequence[Tensor], probes: Sequence[Tensor], length: float) -> Iterator[None]:
    # Write through `data`, so that existing graphs of these weights remain valid.
    pieces = [local(p).data for p in params]
    kept = [piece.detach().clone() for piece in pieces]
    torch.clear_autocast_cache()  # it may contain casts of the previous weights
    try:
        with torch.no_grad():
            for piece, v in zip(pieces, probes, strict=True):
                piece.add_(v, alpha=length)
        yield
    finally:
        torch.clear_autocast_cache()
        with torch.no_grad():
            for piece, value in zip(pieces, kept, strict=True):
                piece.copy_(value)
