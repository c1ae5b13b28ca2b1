"""The routes to a Hessian-vector product, one function each: what to do in place of `loss.backward()`.

A pass gets a loss inside a closure (or from `opt.backward`), adds H v of that loss to what is pending, and leaves the
gradients in `p.grad` as an ordinary backward pass would.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from dashpot.curvature.double import differentiable_gradients, product_of_gradients
from dashpot.curvature.forward import gradients_and_products
from dashpot.curvature.keeping import leaves

__all__ = ["Pass", "accumulate", "double_pass", "forward_pass", "plain_gradients"]

Pass = Callable[..., "list[Tensor | None]"]


def double_pass(
    loss: Tensor, call: dict[str, Any], params: Sequence[Tensor], probes: Sequence[Tensor], *, careful: bool, keep: bool
) -> list[Tensor | None]:
    """H v by a second backward pass; `p.grad` takes in the gradients.

    `call` holds the arguments of the `backward` that this stands for. `careful` runs a whole ordinary backward pass for
    the gradients, for the sake of hooks; `keep` keeps the graph alive.
    """
    mine = _wanted(params, call)
    careful = careful or _must_be_ordinary(loss, call, params)
    grads = differentiable_gradients(loss, mine, call.get("gradient"))
    keep = keep or careful or bool(call.get("retain_graph"))
    products = product_of_gradients(grads, mine, [probes[i] for i in _positions(params, mine)], retain_graph=keep)
    _leave_gradients(loss, call, mine, grads, careful)
    return _spread_out(params, mine, products)


def forward_pass(
    loss: Tensor, call: dict[str, Any], params: Sequence[Tensor], probes: Sequence[Tensor], *, careful: bool, keep: bool
) -> list[Tensor | None]:
    """H v from the tangents of the gradients, inside `forward.moving_along`; else as `double_pass`."""
    del probes
    mine = _wanted(params, call)
    careful = careful or _must_be_ordinary(loss, call, params)
    keep = keep or careful or bool(call.get("retain_graph"))
    grads, products = gradients_and_products(loss, mine, call.get("gradient"), retain_graph=keep)
    _leave_gradients(loss, call, mine, grads, careful)
    return _spread_out(params, mine, products)


def plain_gradients(loss: Tensor, call: dict[str, Any], params: Sequence[Tensor]) -> list[Tensor | None]:
    """The gradients alone, nothing accumulated."""
    mine = _wanted(params, call)
    grads = torch.autograd.grad(
        loss, mine, call.get("gradient"), retain_graph=bool(call.get("retain_graph")), allow_unused=True
    )
    return _spread_out(params, mine, grads)


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


def _must_be_ordinary(loss: Tensor, call: dict[str, Any], params: Sequence[Tensor]) -> bool:
    """True where others wait for this backward pass: leaves outside the optimizer, hooks, a graph somebody wants."""
    hooked = any(getattr(p, "_post_accumulate_grad_hooks", None) for p in params)
    return hooked or bool(call.get("create_graph")) or not leaves(loss) <= set(params)


def _leave_gradients(
    loss: Tensor, call: dict[str, Any], params: Sequence[Tensor], grads: Sequence[Tensor | None], careful: bool
) -> None:
    if careful:
        loss.backward(**call)
    else:
        accumulate(params, grads)


def _wanted(params: Sequence[Tensor], call: dict[str, Any]) -> list[Tensor]:
    """The parameters that the backward pass was asked for."""
    inputs = call.get("inputs")
    if inputs is None:
        return list(params)
    chosen = {inputs} if isinstance(inputs, Tensor) else set(inputs)
    return [p for p in params if p in chosen]


def _positions(params: Sequence[Tensor], chosen: Sequence[Tensor]) -> list[int]:
    places = {p: i for i, p in enumerate(params)}
    return [places[p] for p in chosen]


def _spread_out(
    params: Sequence[Tensor], mine: Sequence[Tensor], values: Sequence[Tensor | None]
) -> list[Tensor | None]:
    """`values` in the order of `params`, None for those that were not asked for."""
    found = dict(zip(mine, values, strict=True))
    return [found.get(p) for p in params]
