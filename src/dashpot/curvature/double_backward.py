"""Hessian-vector products by a second backward pass: H v is the gradient of <g, v>."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from dashpot.curvature.unsupported import naming_unsupported

_SHARES = (1.0, 2.0**-6, 2.0**-12)
"""Factors on the probe, tried in order, because Hessian-vector products overflow in float16 earlier than gradients do,
especially if the loss is scaled."""


def differentiable_gradients(
    loss: Tensor, params: Sequence[Tensor], gradient: Tensor | None = None
) -> list[Tensor | None]:
    """Return differentiable gradients of a loss, with None for parameters outside its graph."""
    with torch.enable_grad(), naming_unsupported([loss]):
        return list(torch.autograd.grad(loss, params, gradient, create_graph=True, allow_unused=True))


def product_of_gradients(
    grads: Sequence[Tensor | None],
    params: Sequence[Tensor],
    probes: Sequence[Tensor],
    *,
    retain_graph: bool = False,
    patient: bool = False,
) -> list[Tensor | None]:
    """Return the product H v for each parameter, computed from differentiable gradients; None denotes zero.

    H is the Hessian with respect to all parameters, including the off-diagonal blocks between parameters. Gradients
    without a graph do not depend on the weights and contribute nothing to the products.

    Args:
        grads: Gradients, in the order of `params`.
        params: Parameters.
        probes: Probes v, in the order of `params`.
        retain_graph: As in `torch.autograd.grad`.
        patient: If True, retry non-finite products with smaller probes.

    Raises:
        CurvatureError: If an operation does not support double backward.
    """
    pairs = [(g, v) for g, v in zip(grads, probes, strict=True) if g is not None and g.requires_grad]
    if not pairs:
        return [None] * len(params)
    outputs, weights = zip(*pairs, strict=True)
    found: Sequence[Tensor | None] = ()
    shares = _SHARES if patient else _SHARES[:1]
    for share in shares:
        keep = retain_graph or share != shares[-1]
        scaled: Any = weights if share == 1 else [v * share for v in weights]
        with naming_unsupported(outputs):
            found = torch.autograd.grad(outputs, params, scaled, retain_graph=keep, allow_unused=True)
        if all(x is None or bool(x.isfinite().all()) for x in (found if patient else ())):
            return [x if x is None or share == 1 else x / share for x in found]
    return list(found)
