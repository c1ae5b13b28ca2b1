"""Norms of many tensors at once, without a synchronization with the host."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from dashpot._torch_private import foreach_norm
from dashpot.engine.dtensor import has_dtensor
from dashpot.engine.sharding import shard_spec

_WIDE = (torch.float32, torch.float64, torch.complex64, torch.complex128)


def norms(tensors: Sequence[Tensor]) -> Tensor:
    """Return the norm of each tensor as a vector on the device of the first. Half-precision norms are float32.

    Sparse tensors are coalesced first. DTensors are not supported; pass their shards.
    """
    plain = [dense_values(x) for x in tensors]
    if len({(x.dtype, x.device) for x in plain}) == 1:
        return torch.stack(_norms_of_one_kind(plain))
    found: list[Any] = [None] * len(plain)
    for kind in dict.fromkeys((x.dtype, x.device) for x in plain):
        at = [i for i, x in enumerate(plain) if (x.dtype, x.device) == kind]
        for i, norm in zip(at, _norms_of_one_kind([plain[i] for i in at]), strict=True):
            found[i] = norm.to(plain[0].device, torch.float64)
    return torch.stack(found) if found else torch.zeros(0)


def dense_values(x: Tensor) -> Tensor:
    """Return the elements that determine the norm: of a sparse tensor, the coalesced values."""
    if x.layout == torch.strided:
        return x
    return x.coalesce().values() if x.layout == torch.sparse_coo else x.values()


def _norms_of_one_kind(tensors: list[Tensor]) -> tuple[Tensor, ...]:
    if tensors[0].dtype in _WIDE:
        return foreach_norm(tensors)
    return foreach_norm(tensors, 2, torch.float32)


def reduce_sums(params: Sequence[Tensor], sums: Tensor) -> Tensor:
    """Add the sums over shards to sums over whole tensors; all ranks must call this with the same parameters.

    Args:
        params: Parameters, some of them DTensors.
        sums: Sums over the elements of the local shards, of shape (quantities, parameters), float64.
    """
    if not has_dtensor(params):
        return sums
    specs = [shard_spec(p) for p in params]
    for spec in dict.fromkeys(specs):
        if spec is not None and spec.dims:
            at = torch.tensor([i for i, its in enumerate(specs) if its == spec], device=sums.device)
            sums[:, at] = spec.all_reduce(sums[:, at].contiguous())
    return sums
