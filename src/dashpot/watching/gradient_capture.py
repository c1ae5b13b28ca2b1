"""Samples of gradients after the backward pass, before any clipping."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from dashpot.engine.dtensor import is_dtensor
from dashpot.watching.dynamics_samples import cut_of, flat
from dashpot.watching.effective_rate import clip_factor

_SAMPLED = 64  # elements per tensor, sufficient for one factor


class GradientCapture:
    """Hooks for one step that store a sample of each gradient when it is accumulated.

    Comparison with the gradient in the step gives the factor of `clip_grad_norm_`. There is no factor under
    `torch.distributed`, where gradients are averaged after the hook, and none with a gradient scaler.
    """

    def __init__(self) -> None:
        self._handles: list[Any] = []
        self._found: dict[Tensor, Tensor] = {}
        self._factors: dict[Tensor, float | None] = {}

    def open(self, params: Iterable[Tensor]) -> None:
        """Register the hooks."""
        self.close()
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            return
        for p in params:
            if p.requires_grad and p.is_leaf and not is_dtensor(p):
                self._handles.append(p.register_post_accumulate_grad_hook(self._store))

    def compare(self, optimizer: Any) -> None:
        """Compute the factors; called before the step."""
        if not hasattr(optimizer, "found_inf"):
            self._factors = {p: clip_factor(g, _sample(p.grad)) for p, g in self._found.items() if p.grad is not None}
        self._remove()

    def factor(self, p: Tensor) -> float | None:
        """Return the factor of a gradient, or None if it is unknown."""
        return self._factors.get(p)

    def close(self) -> None:
        """Remove the hooks and the samples."""
        self._remove()
        self._factors = {}

    def _remove(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles, self._found = [], {}

    def _store(self, p: Tensor) -> None:
        if p.grad is not None and p.grad.layout == torch.strided:
            self._found[p] = _sample(p.grad)


def _sample(g: Tensor) -> Tensor:
    x = flat(g)
    return x[cut_of(len(x), _SAMPLED)].to("cpu", torch.float64, copy=True)
