"""Hessian-vector products by central differences of two ordinary gradients.

    H v = (g(w + e v) - g(w - e v))/(2 e) + O(e^2 |third derivative|) + O(u |g|/e)

with u the roundoff of the gradients. The two errors balance where e is near the cube root of u, in units of the length
over which gradients change. For these units there is no better guess than the size of the weights, so

    e = cbrt(u) (1 + |w|)/|v|

with norms over all parameters together. A product of a smooth network then has about ten correct digits in float64 and
four in float32, for weights of size 1 as for tiny ones. u is the roundoff of the arithmetic behind the gradients, which
may be coarser than the weights: under autocast to bfloat16 the step of float32 leaves errors of 30 to 60 %, that of
bfloat16 2 to 25 %.

Where this is not enough, a `relative_step` of one's own is. Weights in a unit that makes |w| far smaller than 1 are
moved too far, as are large weights inside functions that bend over a length of 1. Where gradients jump, as with ReLU,
the difference also counts the jumps it passes. That is curvature of the expected loss which a second derivative misses,
but its scatter grows as 1/sqrt(e), and longer steps, of 0.1 or so, are better.

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

__all__ = ["central_difference", "relative_step_for", "step_length"]


def relative_step_for(dtype: torch.dtype) -> float:
    """The cube root of the unit roundoff of the arithmetic.

    >>> [round(relative_step_for(dtype), 6) for dtype in (torch.float64, torch.float32, torch.bfloat16)]
    [5e-06, 0.003906, 0.15749]
    """
    return (torch.finfo(dtype).eps / 2) ** (1 / 3)


def step_length(params: Sequence[Tensor], probes: Sequence[Tensor], relative_step: float) -> float:
    """How far to go along the probes: `relative_step` (1 + |w|)/|v|."""
    return relative_step * (1 + _norm(params, params)) / max(_norm(params, probes), 1e-30)


def _norm(params: Sequence[Tensor], values: Sequence[Tensor]) -> float:
    """The norm of values that are divided over processes as the parameters are, all of them together."""
    squares: dict[ShardSpec | None, list[Tensor]] = {}
    for p, value in zip(params, values, strict=True):
        square = real_view(local(value).detach()).to(torch.float64).square().sum()
        squares.setdefault(shard_spec(p), []).append(square)
    total = 0.0
    for spread, found in squares.items():
        here = torch.stack([square.to(found[0].device) for square in found]).sum()
        total += float(here if spread is None else spread.all_reduce(here))
    return math.sqrt(total)


def central_difference(
    gradients_here: Callable[[], Sequence[Tensor | None]],
    params: Sequence[Tensor],
    probes: Sequence[Tensor],
    length: float,
) -> list[Tensor | None]:
    """H v from the gradients at two points; the weights come back bit for bit, whatever happens in between.

    `gradients_here` evaluates them for the present weights. Probes and results are the pieces in this process.
    """
    with _moved(params, probes, length):
        ahead = gradients_here()
    with _moved(params, probes, -length):
        behind = gradients_here()
    with torch.no_grad():
        return [None if a is None or b is None else (a - b) / (2 * length) for a, b in zip(ahead, behind, strict=True)]


@contextmanager
def _moved(params: Sequence[Tensor], probes: Sequence[Tensor], length: float) -> Iterator[None]:
    # Through `data`, so that a graph which somebody holds of these weights does not count them as changed.
    pieces = [local(p).data for p in params]
    kept = [piece.detach().clone() for piece in pieces]
    torch.clear_autocast_cache()  # it may hold the weights of before in another dtype
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
