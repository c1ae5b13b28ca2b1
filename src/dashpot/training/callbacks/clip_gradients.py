"""Clipping of gradients between backward and step."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_

from dashpot.constraints import POSITIVE, Optional, check
from dashpot.errors import ArgumentError
from dashpot.training.callback import Callback
from dashpot.training.callbacks.grad_norms import gradients, total_norm
from dashpot.utils.scalars import is_number

if TYPE_CHECKING:
    from dashpot.training.learner import Learner

__all__ = ["ClipGradients"]


class ClipGradients(Callback):
    """Scales all gradients down to a common norm, and then cuts their elements, before every step.

        n = p-norm of all elements,    g <- g min(1, norm / (n + 1e-6)),    g <- min(max(g, -value), value)

    It comes once for a step, when the gradients of all its batches and processes are added up and the loss scale of
    fp16 is taken out: the limits are in units of the true gradient. One infinite element makes the finite ones 0 and
    itself nan, and one nan makes all nan; see `NonFinite`. Nothing is read from the device.

    dashpot's optimizers can do the same inside their step (`max_norm`, `clip_value`).

    Args:
        norm: positive, or None.
        value: positive, or None.
        norm_type: p > 0, or infinity for the largest absolute value.

    Raises:
        ArgumentError: an argument is out of range, or neither `norm` nor `value` is given.

    Source: torch.nn.utils.clip_grad_norm_ and clip_grad_value_.

    >>> from dashpot import SGD, tasks
    >>> from dashpot.training import Engine, Learner
    >>> learner = Learner.of(tasks.get("digits").build(0), SGD, lr=0.1, engine=Engine("cpu"))
    >>> clip = ClipGradients(norm=0.01)
    >>> learner.fit(1, callbacks=[clip])
    >>> clip.last_norm > 0.01
    tensor(True)
    """

    order: ClassVar[int] = 10

    def __init__(self, norm: float | None = None, value: float | None = None, norm_type: float = 2.0) -> None:
        check("ClipGradients", "norm", norm, Optional(POSITIVE))
        check("ClipGradients", "value", value, Optional(POSITIVE))
        if not (is_number(norm_type) and norm_type > 0):
            raise ArgumentError(f"ClipGradients: norm_type must be a positive number or infinity, got {norm_type!r}.")
        if norm is None and value is None:
            raise ArgumentError("ClipGradients: norm or value must be given.")
        self.norm, self.value, self.norm_type = norm, value, float(norm_type)
        self.last_norm: Tensor | None = None
        """The norm before clipping at the last step, a 0-d tensor; None before the first, or without `norm`."""

    def settings(self) -> dict[str, Any]:
        return {"norm": self.norm, "value": self.value, "norm_type": self.norm_type}

    def step(self, learner: Learner, proceed: Callable[[], None]) -> None:
        found = gradients(learner)
        if self.norm is not None:
            self.last_norm = total_norm(found, self.norm_type)
            clip_grads_with_norm_(_owners(learner), self.norm, self.last_norm)
        if self.value is not None:
            with torch.no_grad():
                for gradient in found:
                    gradient.clamp_(-self.value, self.value)
        proceed()


def _owners(learner: Learner) -> list[Tensor]:
    return [p for group in learner.opt.param_groups for p in group["params"]]
