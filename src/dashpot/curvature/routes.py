"""Gradients and products of one loss, for each route: what is computed in place of `loss.backward()`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dashpot._torch_private import tensor_hooks
from dashpot.curvature.double_backward import differentiable_gradients, product_of_gradients
from dashpot.curvature.forward_over_reverse import gradients_and_products, without_tangents
from dashpot.curvature.graph import leaves
from dashpot.curvature.unsupported import refuse_blind_functions, refuse_hidden_parameters, refuse_sparse

__all__ = ["Found", "accumulate", "double", "forward", "ordinary", "others_wait"]


class Found(NamedTuple):
    """Gradients and H v in the order of the parameters; both None for a parameter that the loss does not reach."""

    grads: list[Tensor | None]
    products: list[Tensor | None]


def double(
    loss: Tensor, call: dict[str, Any], params: Sequence[Tensor], probes: Sequence[Tensor], *, keep: bool, raw: bool
) -> Found:
    """By a second backward pass. `call` holds the arguments of the `backward` that this stands for; `keep` keeps the
    graph alive, and a `raw` loss may have been scaled for float16."""
    refuse_blind_functions([loss])
    refuse_hidden_parameters(loss)
    mine = _wanted(params, call)
    grads = differentiable_gradients(loss, mine, call.get("gradient"))
    refuse_sparse(grads)
    chosen = dict(zip(params, probes, strict=True))
    products = product_of_gradients(grads, mine, [chosen[p] for p in mine], retain_graph=keep, patient=raw)
    return _found(params, mine, grads, products)


def forward(
    loss: Tensor, call: dict[str, Any], params: Sequence[Tensor], probes: Sequence[Tensor], *, keep: bool, raw: bool
) -> Found:
    """From the tangents of the gradients, inside `forward.moving_along`; else as `double`."""
    del probes, raw
    refuse_hidden_parameters(loss)
    mine = _wanted(params, call)
    grads, products = gradients_and_products(loss, mine, call.get("gradient"), retain_graph=keep)
    refuse_sparse(grads)
    return _found(params, mine, grads, products)


def accumulate(params: Sequence[Tensor], grads: Sequence[Tensor | None]) -> None:
    """Add to `p.grad` as a backward pass does."""
    with torch.no_grad():
        for p, g in zip(params, grads, strict=True):
            if g is None:
                continue
            if p.grad is None:
                p.grad = torch.empty_like(p, requires_grad=False).copy_(g.detach())
            else:
                p.grad = p.grad.detach() + g.detach() if p.grad.requires_grad else p.grad.add_(g.detach())


def ordinary(loss: Tensor, call: dict[str, Any]) -> None:
    """`loss.backward()`, without tangents, which `p.grad` and DDP's buckets are not to carry."""
    with without_tangents():
        loss.backward(**call)


def others_wait(loss: Tensor, call: dict[str, Any], params: Sequence[Tensor]) -> bool:
    """True where others wait for an ordinary backward pass: leaves outside the optimizer, hooks, a graph wanted."""
    return any(map(tensor_hooks, params)) or bool(call.get("create_graph")) or not leaves(loss) <= set(params)


def _wanted(params: Sequence[Tensor], call: dict[str, Any]) -> list[Tensor]:
    """The parameters that the backward pass was asked for."""
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
    """In the order of `params`. A gradient that does not depend on the weights has the product zero."""
    by_param = dict(zip(mine, zip(grads, products, strict=True), strict=True))
    pairs = [by_param.get(p, (None, None)) for p in params]
    zeros = (torch.zeros_like(g) if g is not None and hv is None else hv for g, hv in pairs)
    return Found([g for g, _ in pairs], list(zeros))
