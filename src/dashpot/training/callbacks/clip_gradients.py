"""Gradient clipping between the backward pass and the optimizer step."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_

from dashpot.constraints import POSITIVE, Optional, check, shown
from dashpot.errors import ArgumentError
from dashpot.training.callback import Callback
from dashpot.training.callbacks.grad_norms import gradients, total_norm
from dashpot.utils.group_params import group_params
from dashpot.utils.scalars import is_number

if TYPE_CHECKING:
    from dashpot.training.learner import Learner


class ClipGradients(Callback):
    """Gradient clipping by total norm, then by value, before every optimizer step.

        n = p-norm of all elements,    g <- g min(1, norm / (n + 1e-6)),    g <- min(max(g, -value), value)

    Clipping is applied once per step, after the gradients have been accumulated, reduced over all ranks and (in fp16)
    unscaled. If the norm is infinite, infinite elements become NaN and finite elements
    become 0. If the norm is NaN, all elements become NaN.
    To detect such gradients, see `NonFinite`. Clipping requires no host sync.

    dashpot's optimizers can also clip inside their step (`max_norm`, `clip_value`).

    Args:
        norm: Maximum total norm, positive; None for no clipping by norm.
        value: Maximum absolute value of a gradient element, positive; None for no clipping by value.
        norm_type: Exponent p > 0 of the norm; `math.inf` for the maximum norm.

    Attributes:
        last_norm: Total norm of the gradients before clipping in the last step, a 0-d tensor; None before the first
            step or if `norm` is None.

    Raises:
        ArgumentError: If an argument is out of range, or neither `norm` nor `value` is given.

    Source: torch.nn.utils.clip_grad_norm_ and clip_grad_value_.

    Example:
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
            raise ArgumentError(
                f"ClipGradients: norm_type must be a positive number or infinity, got {shown(norm_type)}."
            )
        if norm is None and value is None:
            raise ArgumentError("ClipGradients: norm or value must be given.")
        self.norm, self.value, self.norm_type = norm, value, float(norm_type)
        self.last_norm: Tensor | None = None

    def settings(self) -> dict[str, Any]:
        return {"norm": self.norm, "value": self.value, "norm_type": self.norm_type}

    def step(self, learner: Learner, proceed: Callable[[], None]) -> None:
        grads = gradients(learner)
        if self.norm is not None:
            self.last_norm = total_norm(grads, self.norm_type)
            clip_grads_with_norm_(group_params(learner.opt), self.norm, self.last_norm)
        if self.value is not None:
            with torch.no_grad():
                for grad in grads:
                    grad.clamp_(-self.value, self.value)
        proceed()
