"""The gradients of the step at hand, as callbacks see them: all batches added up, the loss scale taken out."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm

if TYPE_CHECKING:
    from dashpot.training.learner import Learner

__all__ = ["grad_norm", "gradients", "total_norm"]


def gradients(learner: Learner) -> list[Tensor]:
    """The gradients that the optimizer's coming step uses; to be asked for within the action `step`."""
    learner.engine.unscale(learner.opt)
    return [p.grad for group in learner.opt.param_groups for p in group["params"] if p.grad is not None]


def grad_norm(learner: Learner) -> Tensor:
    """The 2-norm of all gradients before clipping, measured once for a step and kept as `learner.batch.grad_norm`.

    Every process must ask, and gets the same. What scales gradients by their norm measures for itself instead: another
    callback may have changed them meanwhile.
    """
    if learner.batch.grad_norm is None:
        learner.batch.grad_norm = total_norm(gradients(learner))
    return learner.batch.grad_norm


def total_norm(tensors: Iterable[Tensor], norm_type: float = 2.0) -> Tensor:
    """The norm of all elements together, a 0-d tensor; those of weights that are divided among processes count once.

    >>> total_norm([torch.tensor([3.0]), torch.tensor([[4.0]])])
    tensor(5.)
    """
    with torch.no_grad():
        norm = get_total_norm(tensors, norm_type)
        return norm.full_tensor() if hasattr(norm, "full_tensor") else norm  # pyright: ignore[reportAttributeAccessIssue]
