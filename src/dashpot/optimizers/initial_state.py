"""The step that torch.distributed.checkpoint takes to make the state of a fresh optimizer, before it loads into it.

It sets every gradient and every learning rate to zero and calls `step()`. Here that step makes the state and does
nothing else: no weight moves, nothing is learned or counted, and no Hessian-vector product is asked for. A run whose
state was made so is the run without it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from dashpot.engine import dtensor
from dashpot.engine.sharding import global_norm_and_finite, shard_spec
from dashpot.optimizers import cuda_graph
from dashpot.optimizers.step import complete_state, with_gradients
from dashpot.utils.scalars import is_number, read

if TYPE_CHECKING:
    from dashpot.optimizers.base import Optimizer

__all__ = ["init_state", "is_state_init_step"]


def is_state_init_step(optimizer: Optimizer) -> bool:
    """True where there is no state yet, every learning rate is zero and every gradient is exactly zero; the same answer
    in every process."""
    if optimizer.state or cuda_graph.capturing() or not all(_is_zero(group["lr"]) for group in optimizer.param_groups):
        return False
    params = [p for group in optimizer.param_groups for p in with_gradients(group["params"])[0]]
    return bool(params) and not any(cast(Tensor, p.grad).requires_grad for p in params) and _all_zero(params)


def init_state(optimizer: Optimizer) -> None:
    """The state of every parameter with a gradient, and the counts of groups, as they are before the first step."""
    plans = []
    for group in optimizer.param_groups:
        recipe, _, _ = optimizer._resolve_group(group, 0)
        for p in with_gradients(group["params"])[0]:
            optimizer._check_gradient(p)
            plans.append((p, recipe, bool(group.get("capturable"))))
    for p, recipe, on_device in plans:
        optimizer.state[p]["step"] = torch.zeros((), dtype=torch.float32, device=p.device if on_device else "cpu")
        complete_state(optimizer, recipe, p, optimizer.options.storage(p.dtype))
    for group in optimizer.param_groups:
        group.setdefault("steps_done", 0)


def _is_zero(lr: Any) -> bool:
    number = read(lr)  # torch.distributed.checkpoint sets a number or a tensor on the CPU
    return is_number(number) and number == 0


def _all_zero(params: Sequence[Tensor]) -> bool:
    found: dict[Any, bool] = {}
    for p in params:
        grad = dtensor.local(p.grad)
        zero = grad.layout == torch.strided and not bool(torch.count_nonzero(grad))
        found[shard_spec(p)] = found.get(shard_spec(p), True) and zero
    if found.keys() == {None}:
        return found[None]
    nothing = torch.zeros((), dtype=torch.float64)
    return bool(global_norm_and_finite({spread: (nothing, zero) for spread, zero in found.items()})[1])
