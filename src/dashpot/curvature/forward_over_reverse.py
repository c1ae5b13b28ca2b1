"""Forward-over-reverse Hessian-vector products: the forward-mode derivative of the gradient along v.

The method is equivalent to `torch.func.jvp(torch.func.grad(f), ...)`, which requires a function of the parameters. In
this module, the weights are instead dual tensors with tangent v during one evaluation of a closure. Any closure works,
and no graph of the backward pass is retained.
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
from dashpot.curvature.unsupported import naming_unsupported


@contextmanager
def forward_tangents(params: Sequence[Tensor], probes: Sequence[Tensor]) -> Iterator[None]:
    """Make each parameter a dual tensor with its probe as tangent; the values remain bit-identical."""
    torch.clear_autocast_cache()  # it may contain casts of the weights without tangents
    try:
        with forward_ad.dual_level(), naming_unsupported(way="forward-mode derivative"):
            with torch.no_grad(), preserve_version_counters(params):
                for p, v in zip(params, probes, strict=True):
                    p.copy_(_dual(p.detach().clone(), v))
            yield
    finally:
        torch.clear_autocast_cache()


def _dual(value: Tensor, tangent: Tensor) -> Tensor:
    # The first call scripts formulas and triggers torch's own deprecation warning.
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r".*torch\.jit", DeprecationWarning)
        return forward_ad.make_dual(value, tangent)


def without_tangents() -> AbstractContextManager[Any]:
    """Disable forward-mode tangents, as `torch.no_grad` disables gradients.

    torch's forward mode ignores `no_grad`, whereas double backward respects it. Tangents are therefore disabled under
    `no_grad`, so that both methods compute the same Hessian.
    """
    return without_forward_ad()


def gradients_and_products(
    loss: Tensor, params: Sequence[Tensor], gradient: Tensor | None = None, *, retain_graph: bool = False
) -> tuple[list[Tensor | None], list[Tensor | None]]:
    """Return (gradients, H v) of a loss computed inside `forward_tangents`; None denotes zero."""
    found = torch.autograd.grad(loss, params, gradient, retain_graph=retain_graph, allow_unused=True)
    grads: list[Tensor | None] = []
    products: list[Tensor | None] = []
    for g in found:
        value, tangent = (None, None) if g is None else forward_ad.unpack_dual(g)
        grads.append(None if value is None else value.detach())
        products.append(None if tangent is None else tangent.detach().clone())
    return grads, products
