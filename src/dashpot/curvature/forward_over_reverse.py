"""Hessian-vector products forward over reverse: the derivative of the gradient along v, carried through both passes.

This is what `torch.func.jvp(torch.func.grad(f), ...)` computes. There `f` must be a function of the parameters; here
the weights themselves carry the tangent v for the time of one evaluation, so any closure will do, and no graph of the
backward pass is kept.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from dashpot._torch_private import preserve_version_counters, without_forward_ad
from dashpot.curvature.unsupported import named_obstacle

__all__ = ["gradients_and_products", "moving_along", "without_tangents"]


@contextmanager
def moving_along(params: Sequence[Tensor], probes: Sequence[Tensor]) -> Iterator[None]:
    """Give each parameter its probe as tangent while this is open; the weights keep their values, bit for bit."""
    torch.clear_autocast_cache()  # it may hold the weights in another dtype, without the tangents
    try:
        with forward_ad.dual_level(), named_obstacle(way="forward-mode derivative"):
            with torch.no_grad(), preserve_version_counters(params):
                for p, v in zip(params, probes, strict=True):
                    p.copy_(_dual(p.detach().clone(), v))
            yield
    finally:
        torch.clear_autocast_cache()


def _dual(value: Tensor, tangent: Tensor) -> Tensor:
    # The first call loads formulas that torch scripts, against its own advice.
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r".*torch\.jit", DeprecationWarning)
        return forward_ad.make_dual(value, tangent)


def without_tangents() -> AbstractContextManager[Any]:
    """What is computed while this is open carries no tangent, as it gets no gradient under `torch.no_grad`.

    torch's forward mode goes through `no_grad`; double backward does not, and the two must mean the same Hessian.
    """
    return without_forward_ad()


def gradients_and_products(
    loss: Tensor, params: Sequence[Tensor], gradient: Tensor | None = None, *, retain_graph: bool = False
) -> tuple[list[Tensor | None], list[Tensor | None]]:
    """(gradients, H v) of a loss that was computed inside `moving_along`; None stands for zero."""
    found = torch.autograd.grad(loss, params, gradient, retain_graph=retain_graph, allow_unused=True)
    grads: list[Tensor | None] = []
    products: list[Tensor | None] = []
    for g in found:
        value, tangent = (None, None) if g is None else forward_ad.unpack_dual(g)
        grads.append(None if value is None else value.detach())
        products.append(None if tangent is None else tangent.detach().clone())
    return grads, products
