"""Hessian-vector products by a second backward pass: H v is the gradient of <g, v>."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from dashpot.curvature.unsupported import named_obstacle

__all__ = ["differentiable_gradients", "product_of_gradients"]

_SHARES = (1.0, 2.0**-6, 2.0**-12)
"""Of the probe, tried in turn. In float16 products overflow before gradients do, above all those of a scaled loss."""


def differentiable_gradients(
    loss: Tensor, params: Sequence[Tensor], gradient: Tensor | None = None
) -> list[Tensor | None]:
    """The gradients of a loss with a graph behind them; None for a parameter that the loss does not depend on."""
    with torch.enable_grad(), named_obstacle([loss]):
        return list(torch.autograd.grad(loss, params, gradient, create_graph=True, allow_unused=True))


def product_of_gradients(
    grads: Sequence[Tensor | None],
    params: Sequence[Tensor],
    probes: Sequence[Tensor],
    *,
    retain_graph: bool = False,
    patient: bool = False,
) -> list[Tensor | None]:
    """H v for each parameter, from gradients that carry a graph; None stands for zero.

    One joint product, so that the blocks between different parameters count. A gradient without a graph does not depend
    on the weights and adds nothing. `patient`: where the product is not finite, try again with smaller probes. Raises
    `CurvatureError` where an operation has no double backward.
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
        with named_obstacle(outputs):
            found = torch.autograd.grad(outputs, params, scaled, retain_graph=keep, allow_unused=True)
        if all(x is None or bool(x.isfinite().all()) for x in (found if patient else ())):
            return [x if x is None or share == 1 else x / share for x in found]
    return list(found)
