"""Functions for callbacks that return the unscaled gradients of the current step, or norms of tensors."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm

from dashpot.utils.group_params import group_params

if TYPE_CHECKING:
    from dashpot.training.learner import Learner


def gradients(learner: Learner) -> list[Tensor]:
    """Return the unscaled gradients of the optimizer step. Call this function only within the action `step`."""
    learner.engine.unscale(learner.opt)
    return [p.grad for p in group_params(learner.opt) if p.grad is not None]


def grad_norm(learner: Learner) -> Tensor:
    """Return the 2-norm of all gradients before clipping, computed once per step and cached in `learner.batch`.

    This function is a collective: every rank must call it. Callbacks that scale gradients by their norm must use
    `total_norm` instead, because a previous callback may have changed the gradients.
    """
    if learner.batch.grad_norm is None:
        learner.batch.grad_norm = total_norm(gradients(learner))
    return learner.batch.grad_norm


def total_norm(tensors: Iterable[Tensor], norm_type: float = 2.0) -> Tensor:
    """Return the norm over all elements of all tensors, a 0-d tensor; a sharded tensor counts with all of its shards.

    >>> total_norm([torch.tensor([3.0]), torch.tensor([[4.0]])])
    tensor(5.)
    """
    with torch.no_grad():
        norm = get_total_norm(tensors, norm_type)
        return norm.full_tensor() if hasattr(norm, "full_tensor") else norm  # pyright: ignore[reportAttributeAccessIssue]
