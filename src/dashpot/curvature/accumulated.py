"""Products on their way from a backward pass to the step that takes them in."""

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

__all__ = ["Between", "Pending", "any_process", "finished", "several_processes"]


class Pending:
    """H v of each parameter, summed over micro-batches as `p.grad` is, and v.

    `raw` tells that the loss may have been multiplied by a gradient scaler, whose factor the products then carry; `due`
    whether products are gathered for this step (None: undecided).
    """

    def __init__(self) -> None:
        self.held: dict[Tensor, Tensor] = {}
        self.probes: dict[Tensor, Tensor] = {}
        self.clear()

    def clear(self) -> None:
        """Drop everything."""
        self.held.clear()
        self.probes.clear()
        self.taken = self.raw = False
        self.due: bool | None = None
        self._grads: list[tuple[Tensor, weakref.ref[Tensor]]] = []

    def add(
        self, params: Sequence[Tensor], products: Iterable[Tensor | None], *, raw: bool, scale: float = 1.0
    ) -> None:
        """Add the products of one backward pass, divided by `scale`; None where it did not reach the parameter."""
        self.taken, self.raw = True, self.raw or raw
        for p, product in zip(params, products, strict=True):
            if product is not None:
                product = product.detach().resolve_conj()
                product = product if scale == 1 else product / scale
                self.held[p] = self.held[p] + product if p in self.held else product

    def restart(self) -> None:
        """Drop the products, and go on with the same probes."""
        self.held.clear()
        self.taken = False

    def forget(self, params: Iterable[Tensor]) -> None:
        """Drop the products of parameters whose gradients start anew."""
        for p in params:
            self.held.pop(p, None)

    def stamp(self, params: Iterable[Tensor]) -> None:
        """Note which gradients these products belong to."""
        self._grads = [(p, weakref.ref(p.grad)) for p in params if p.grad is not None]

    def stale(self) -> bool:
        """True where a gradient is another tensor than at the last `stamp`."""
        return any(grad() is not p.grad for p, grad in self._grads)


@dataclass
class Between:
    """What stands between two steps: products that came with gradients, those of `curvature_step`, those the step under
    way takes in, and the parameters without any (None: the state tells).

    One object, as a wrapper that has the optimizer's class and passes reads on (Fabric's, Lightning's) keeps what is
    written to its attributes to itself.
    """

    gathered: Pending = field(default_factory=Pending)
    settled: Pending | None = None
    ready: dict[Tensor, tuple[Tensor, Tensor]] | None = None
    unobserved: set[Tensor] | None = None


def several_processes(group: Any) -> bool:
    """True where torch.distributed runs and the group (None: the default one) has more than one process."""
    dist = torch.distributed
    return dist.is_available() and dist.is_initialized() and dist.get_world_size(group) > 1


def any_process(wanted: bool, group: Any, params: Sequence[Tensor]) -> bool:
    """True where `wanted` holds in some process of the group."""
    if not several_processes(group) or not params:
        return wanted
    flag = torch.tensor(float(wanted), device=local(params[0]).device)
    torch.distributed.all_reduce(flag, torch.distributed.ReduceOp.MAX, group=group)
    return bool(flag)


def _averaged(products: Mapping[Tensor, Tensor], group: Any) -> dict[Tensor, Tensor]:
    """The products of plain parameters as means over the processes; those of DTensors are means already."""
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
    """True where every element is finite, on every process that holds a piece."""
    strange: dict[Any, Tensor] = {}
    for p, product in products.items():
        count = (~real_view(product).isfinite()).sum().to(torch.float64)
        spread = shard_spec(p)
        strange[spread] = strange[spread].to(count.device) + count if spread in strange else count
    found = [count if spread is None else spread.all_reduce(count) for spread, count in strange.items()]
    return all(float(count) == 0 for count in found)


def finished(
    pending: Pending, params: Sequence[Tensor], scale: Tensor | None, group: Any, upside_down: set[Tensor]
) -> dict[Tensor, Tensor] | None:
    """The product of each parameter that was reached, as the stages take it in; None where they are not all finite.

    Divided by the loss scale, averaged over the processes of `group` (False: not at all), and negated where the
    objective is maximised.
    """
    products = {p: pending.held[p] for p in params if p in pending.held}
    if scale is not None and pending.raw:
        products = {p: hv / scale.to(hv.device, hv.dtype) for p, hv in products.items()}
    if group is not False and several_processes(group) and params:
        products = _averaged(_reached_anywhere(products, params, group), group)
    if not _all_finite(products):
        return None
    return {p: -hv if p in upside_down else hv for p, hv in products.items()}


def _reached_anywhere(products: Mapping[Tensor, Tensor], params: Sequence[Tensor], group: Any) -> dict[Tensor, Tensor]:
    """The products with a zero for every parameter that was reached in another process only."""
    reached = torch.tensor([float(p in products) for p in params], device=local(params[0]).device)
    torch.distributed.all_reduce(reached, torch.distributed.ReduceOp.MAX, group=group)
    chosen = [p for p, flag in zip(params, reached.tolist(), strict=True) if flag]
    return {p: products[p] if p in products else torch.zeros_like(local(p)) for p in chosen}
