"""Hessian-vector products of sharded parameters."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from dashpot.curvature.state_guards import module_pre_hook
from dashpot.engine.dtensor import is_dtensor, to_local
from dashpot.errors import CurvatureError
from dashpot.recipes.recipe import Recipe


@contextmanager
def reshard_before_forward() -> Iterator[None]:
    """Reshard FSDP2 modules before their forward pass, so that changed weights are gathered again.

    After a forward pass without a backward pass, FSDP2 keeps the previously gathered weights.
    """
    seen: set[nn.Module] = set()
    kind = getattr(sys.modules.get("torch.distributed.fsdp"), "FSDPModule", ())

    def before(module: nn.Module, _: Any) -> None:
        for part in module.modules() if isinstance(module, kind) and module not in seen else ():
            if isinstance(part, kind):
                seen.add(part)
                cast(Any, part).reshard()

    with module_pre_hook(before):
        yield


def local_gradients(owner: str, params: Sequence[Tensor]) -> list[Tensor | None]:
    """Return copies of the local shards of the gradients, with pending reductions applied."""
    having = [p for p in params if p.grad is not None]
    with torch.no_grad():
        _, grads = to_local(owner, having, [p.grad for p in having if p.grad is not None])
    found = {p: g.detach().clone() for p, g in zip(having, grads, strict=True)}
    return [found.get(p) for p in params]


def check_spatial_sharding(owner: str, params: Sequence[Tensor], recipe: Recipe) -> None:
    """Raise `CurvatureError` if a convolution window is sharded, since each shard would be averaged separately."""
    if not any(getattr(stage, "spatial", False) for stage in recipe.active()):
        return
    for p in filter(is_dtensor, params):
        placements = cast(Any, p).placements
        if any(getattr(how, "dim", 0) >= 2 for how in placements):
            raise CurvatureError(
                f"{owner}: spatial_averaging requires unsharded kernel windows, got {placements} for a parameter of "
                f"shape {tuple(p.shape)}; shard its first or second dimension, or disable spatial_averaging."
            )
