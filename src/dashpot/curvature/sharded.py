"""What products need to know of parameters that several processes hold in pieces."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from dashpot.curvature.state_guards import before_every_module
from dashpot.engine.dtensor import is_dtensor, to_local
from dashpot.errors import CurvatureError
from dashpot.recipes.recipe import Recipe

__all__ = ["check_windows", "pieces_of_gradients", "weights_gathered_anew"]


@contextmanager
def weights_gathered_anew() -> Iterator[None]:
    """Have FSDP2 gather weights anew that it still holds from before they were moved, as after a forward pass that no
    backward pass followed."""
    seen: set[nn.Module] = set()
    kind = getattr(sys.modules.get("torch.distributed.fsdp"), "FSDPModule", ())

    def before(module: nn.Module, _: Any) -> None:
        for part in module.modules() if isinstance(module, kind) and module not in seen else ():
            if isinstance(part, kind):
                seen.add(part)
                cast(Any, part).reshard()

    with before_every_module(before):
        yield


def pieces_of_gradients(owner: str, params: Sequence[Tensor]) -> list[Tensor | None]:
    """The gradients in this process, copied; summed over processes where that is still due."""
    having = [p for p in params if p.grad is not None]
    with torch.no_grad():
        _, grads = to_local(owner, having, [p.grad for p in having if p.grad is not None])
    found = {p: g.detach().clone() for p, g in zip(having, grads, strict=True)}
    return [found.get(p) for p in params]


def check_windows(owner: str, params: Sequence[Tensor], recipe: Recipe) -> None:
    """Refuse windows of kernels that are divided over processes: each piece would be averaged by itself."""
    if not any(getattr(stage, "spatial", False) for stage in recipe.active()):
        return
    for p in filter(is_dtensor, params):
        placements = cast(Any, p).placements
        if any(getattr(how, "dim", 0) >= 2 for how in placements):
            raise CurvatureError(
                f"{owner}: spatial_averaging takes windows that are whole in each process, got {placements} for a "
                f"parameter of shape {tuple(p.shape)}; divide its first or second dimension, or switch it off."
            )
