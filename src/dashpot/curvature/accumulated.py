"""Accumulation of Hessian-vector products over the backward passes before an optimizer step."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from dashpot.engine.dtensor import is_dtensor, local
from dashpot.engine.eager import real_view
from dashpot.engine.sharding import shard_spec


class AccumulatedProducts:
    """Hessian-vector products H v of all parameters, summed over micro-batches like `p.grad`, and the probes v.

    `taken` is True after a backward pass that computed products. `raw` is True if the products may contain the factor
    of a gradient scaler. `due` is True if the current step accumulates products, and None if this is not yet decided.
    """

    def __init__(self) -> None:
        self.held: dict[Tensor, Tensor] = {}
        self.probes: dict[Tensor, Tensor] = {}
        self.clear()

    def clear(self) -> None:
        """Discard the products and the probes."""
        self.held.clear()
        self.probes.clear()
        self.taken = self.raw = False
        self.due: bool | None = None
        self._grads: list[tuple[Tensor, weakref.ref[Tensor]]] = []

    def add(
        self, params: Sequence[Tensor], products: Iterable[Tensor | None], *, raw: bool, scale: float = 1.0
    ) -> None:
        """Add the products of one backward pass, divided by `scale`; None for parameters outside its graph."""
        self.taken, self.raw = True, self.raw or raw
        for p, product in zip(params, products, strict=True):
            if product is not None:
                product = product.detach().resolve_conj()
                product = product if scale == 1 else product / scale
                self.held[p] = self.held[p] + product if p in self.held else product

    def multiply(self, factor: Any) -> None:
        """Multiply the products by a number or a 0-d tensor, as their gradients were multiplied."""
        self.held = {p: product * _like(factor, product) for p, product in self.held.items()}

    def restart(self) -> None:
        """Discard the products and keep the probes."""
        self.held.clear()
        self.taken = False

    def forget(self, params: Iterable[Tensor]) -> None:
        """Discard the products of parameters whose gradients were reset."""
        for p in params:
            self.held.pop(p, None)

    def stamp(self, params: Iterable[Tensor]) -> None:
        """Record that the products belong to the current gradients."""
        self._grads = [(p, weakref.ref(p.grad)) for p in params if p.grad is not None]

    def stale(self) -> bool:
        """Return True if a gradient was replaced since the last call of `stamp`."""
        return any(grad() is not p.grad for p, grad in self._grads)


def _like(factor: Any, product: Tensor) -> Any:
    return factor.to(product.device, product.dtype) if isinstance(factor, Tensor) else factor


@dataclass
class PendingProducts:
    """Hessian-vector products accumulated for the next step.

    The products are attributes of this object, not of the optimizer, because wrappers that subclass the optimizer
    (Fabric, Lightning) forward attribute reads but not attribute writes.

    Attributes:
        from_gradients: Products accumulated together with gradients.
        from_curvature_step: Products computed by `curvature_step`.
        ready: Pairs (probe, product) for the current step, reduced over the ranks.
        unobserved: Parameters for which no product has been computed yet; None if unknown.
    """

    from_gradients: AccumulatedProducts = field(default_factory=AccumulatedProducts)
    from_curvature_step: AccumulatedProducts | None = None
    ready: dict[Tensor, tuple[Tensor, Tensor]] | None = None
    unobserved: set[Tensor] | None = None


def is_multiprocess(group: Any) -> bool:
    """Return True if torch.distributed is initialized and `group` (None: the default group) has several ranks."""
    dist = torch.distributed
    return dist.is_available() and dist.is_initialized() and dist.get_world_size(group) > 1


def any_rank(wanted: bool, group: Any, params: Sequence[Tensor]) -> bool:
    """Return True if `wanted` is True on any rank of the group."""
    if not is_multiprocess(group) or not params:
        return wanted
    flag = torch.tensor(float(wanted), device=local(params[0]).device)
    torch.distributed.all_reduce(flag, torch.distributed.ReduceOp.MAX, group=group)
    return bool(flag)


def _averaged(products: Mapping[Tensor, Tensor], group: Any) -> dict[Tensor, Tensor]:
    """Average the products of plain parameters over the ranks; products of DTensors are already averaged."""
    kinds: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}
    for p, product in products.items():
        if not is_dtensor(p):
            kinds.setdefault((product.dtype, product.device), []).append(p)
    result = dict(products)
    for plain in kinds.values():
        flat = torch.cat([real_view(products[p]).reshape(-1) for p in plain])
        torch.distributed.all_reduce(flat, group=group)
        flat /= torch.distributed.get_world_size(group)
        for p, piece in zip(plain, flat.split([real_view(products[p]).numel() for p in plain]), strict=True):
            values = piece.view(real_view(products[p]).shape)
            result[p] = torch.view_as_complex(values) if products[p].is_complex() else values
    return result


def _all_finite(products: Mapping[Tensor, Tensor]) -> bool:
    """Return True if all elements of the products are finite on all ranks that have a shard."""
    nonfinite: dict[Any, Tensor] = {}
    for p, product in products.items():
        count = (~real_view(product).isfinite()).sum().to(torch.float64)
        spec = shard_spec(p)
        nonfinite[spec] = nonfinite[spec].to(count.device) + count if spec in nonfinite else count
    found = [count if spec is None else spec.all_reduce(count) for spec, count in nonfinite.items()]
    return all(float(count) == 0 for count in found)


def reduced_products(
    pending: AccumulatedProducts, params: Sequence[Tensor], scale: Tensor | None, group: Any, negated: set[Tensor]
) -> dict[Tensor, Tensor] | None:
    """Return the unscaled, averaged product of each parameter that has a product; None if a product is not finite.

    Products are divided by the loss scale and averaged over the ranks of `group` (False: no averaging). For the
    parameters in `negated`, whose objective is maximized, the products are negated.
    """
    products = {p: pending.held[p] for p in params if p in pending.held}
    if scale is not None and pending.raw:
        products = {p: hv / scale.to(hv.device, hv.dtype) for p, hv in products.items()}
    if group is not False and is_multiprocess(group) and params:
        products = _averaged(_reached_anywhere(products, params, group), group)
    if not _all_finite(products):
        return None
    return {p: -hv if p in negated else hv for p, hv in products.items()}


def _reached_anywhere(products: Mapping[Tensor, Tensor], params: Sequence[Tensor], group: Any) -> dict[Tensor, Tensor]:
    """Return `products` and, for parameters that have a product only on other ranks, zeros."""
    reached = torch.tensor([float(p in products) for p in params], device=local(params[0]).device)
    torch.distributed.all_reduce(reached, torch.distributed.ReduceOp.MAX, group=group)
    chosen = [p for p, flag in zip(params, reached.tolist(), strict=True) if flag]
    return {p: products[p] if p in products else torch.zeros_like(local(p)) for p in chosen}
