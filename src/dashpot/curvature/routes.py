"""Routes, which compute gradients and products of a loss in place of `loss.backward()`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dashpot._torch_private import tensor_hooks
from dashpot.curvature.double_backward import differentiable_gradients, product_of_gradients
from dashpot.curvature.forward_over_reverse import gradients_and_products, without_tangents
from dashpot.curvature.graph import leaves
from dashpot.curvature.unsupported import reject_once_differentiable, reject_reentrant_checkpoint, reject_sparse


class Found(NamedTuple):
    """Gradients and Hessian-vector products in the order of the parameters.

    For a parameter outside the graph of the loss, the gradient and the product are None.
    """

    grads: list[Tensor | None]
    products: list[Tensor | None]


def double(
    loss: Tensor, call: dict[str, Any], params: Sequence[Tensor], probes: Sequence[Tensor], *, keep: bool, raw: bool
) -> Found:
    """Compute products by double backward.

    Args:
        loss: Scalar loss.
        call: Arguments of the replaced `backward` call.
        params: Parameters.
        probes: Probes, in the order of `params`.
        keep: If True, retain the graph.
        raw: True if the loss may already have been multiplied by the scale of a `GradScaler`.
    """
    reject_once_differentiable([loss])
    reject_reentrant_checkpoint(loss)
    mine = _wanted(params, call)
    grads = differentiable_gradients(loss, mine, call.get("gradient"))
    reject_sparse(grads)
    chosen = dict(zip(params, probes, strict=True))
    products = product_of_gradients(grads, mine, [chosen[p] for p in mine], retain_graph=keep, patient=raw)
    return _found(params, mine, grads, products)


def forward(
    loss: Tensor, call: dict[str, Any], params: Sequence[Tensor], probes: Sequence[Tensor], *, keep: bool, raw: bool
) -> Found:
    """Compute products as tangents of the gradients; call it inside `forward_tangents`, with arguments as `double`."""
    del probes, raw
    reject_reentrant_checkpoint(loss)
    mine = _wanted(params, call)
    grads, products = gradients_and_products(loss, mine, call.get("gradient"), retain_graph=keep)
    reject_sparse(grads)
    return _found(params, mine, grads, products)


def accumulate(params: Sequence[Tensor], grads: Sequence[Tensor | None]) -> None:
    """Accumulate `grads` into `p.grad`, as a backward pass does."""
    with torch.no_grad():
        for p, g in zip(params, grads, strict=True):
            if g is None:
                continue
            if p.grad is None:
                p.grad = torch.empty_like(p, requires_grad=False).copy_(g.detach())
            else:
                p.grad = p.grad.detach() + g.detach() if p.grad.requires_grad else p.grad.add_(g.detach())


def plain_backward(loss: Tensor, call: dict[str, Any]) -> None:
    """Call `loss.backward()` without tangents, since tangents must not reach `p.grad` or the buckets of DDP."""
    with without_tangents():
        loss.backward(**call)


def requires_backward(loss: Tensor, call: dict[str, Any], params: Sequence[Tensor]) -> bool:
    """Return True if a regular backward pass is required because of other leaves, hooks, or `create_graph`."""
    return any(map(tensor_hooks, params)) or bool(call.get("create_graph")) or not leaves(loss) <= set(params)


def _wanted(params: Sequence[Tensor], call: dict[str, Any]) -> list[Tensor]:
    """Return the parameters selected by the argument `inputs` of the backward call."""
    inputs = call.get("inputs")
    if inputs is None:
        return list(params)
    chosen = {inputs} if isinstance(inputs, Tensor) else set(inputs)
    return [p for p in params if p in chosen]


def _found(
    params: Sequence[Tensor],
    mine: Sequence[Tensor],
    grads: Sequence[Tensor | None],
    products: Sequence[Tensor | None],
) -> Found:
    """Return the results in the order of `params`; a gradient that does not depend on the weights has product zero."""
    by_param = dict(zip(mine, zip(grads, products, strict=True), strict=True))
    pairs = [by_param.get(p, (None, None)) for p in params]
    zeros = (torch.zeros_like(g) if g is not None and hv is None else hv for g, hv in pairs)
    return Found([g for g, _ in pairs], list(zeros))
