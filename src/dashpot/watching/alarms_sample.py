"""Norms and inner products of consecutive gradients and updates, on a fixed sample of the elements of each tensor."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from dashpot._torch_private import local_tensor

SAMPLE = 128
"""Largest number of sampled elements of a tensor."""


class Pulse(NamedTuple):
    """One step. Arrays have one entry a tensor, NaN without a gradient; norms are of the sampled elements.

    Attributes:
        step: Number of the step.
        loss: Loss of the batch before the step, or None.
        rate: Learning rates in force.
        grad: Norms of the gradients.
        update: Norms of the updates of the step.
        weight: Norms of the weights before the step.
        slope: Inner products of the gradient with the previous update; positive past the minimum along that update.
        turn: Inner products of the gradient with the previous gradient.
        back: Inner products of the update with the previous update.
        zeros: Shares of sampled elements whose gradient is exactly 0.
        stalled: Shares of sampled elements with a nonzero gradient and an unchanged weight.
    """

    step: int
    loss: float | None
    rate: np.ndarray
    grad: np.ndarray
    update: np.ndarray
    weight: np.ndarray
    slope: np.ndarray
    turn: np.ndarray
    back: np.ndarray
    zeros: np.ndarray
    stalled: np.ndarray


class Sampler:
    """Gathers the same evenly spaced elements of each tensor into one matrix, zero-padded.

    Args:
        params: Parameters, real or complex.
        size: Largest number of elements of a tensor.
    """

    def __init__(self, params: Sequence[Tensor], size: int = SAMPLE) -> None:
        self.params, self.size = list(params), size
        counts = [_sampled(_flat(p), size).numel() for p in self.params]
        self.counts = np.array(counts)
        ends = np.cumsum([0, *counts])
        index = [[s + k if k < c else ends[-1] for k in range(size)] for s, c in zip(ends, counts, strict=False)]
        self._index = torch.tensor(index, device=self.params[0].device if self.params else None).reshape(-1, size)

    def gather(self, tensors: Sequence[Tensor | None]) -> Tensor:
        """Return a float32 matrix, one row a tensor; rows of None are NaN."""
        parts = [
            torch.full((count,), torch.nan, device=p.device) if t is None else _sampled(_flat(t), self.size).float()
            for t, count, p in zip(tensors, self.counts, self.params, strict=True)
        ]
        end = torch.zeros(1, device=self._index.device)
        return torch.cat([*parts, end])[self._index]


def _flat(p: Tensor) -> Tensor:
    """Return the local elements of a tensor in one dimension, without a copy if possible."""
    local = local_tensor(p, p).detach()
    return (torch.view_as_real(local) if local.is_complex() else local).reshape(-1)


def _sampled(x: Tensor, size: int) -> Tensor:
    return x[:: max(1, -(-x.numel() // size))] if x.numel() else x


class PulseReader:
    """Computes pulses from matrices of sampled gradients and weights."""

    def __init__(self) -> None:
        self._grads: np.ndarray | None = None
        self._updates: np.ndarray | None = None

    def read(
        self, step: int, loss: float | None, rate: np.ndarray, grads: np.ndarray, before: np.ndarray, after: np.ndarray
    ) -> Pulse:
        """Return the pulse of a step, with the sampled gradients and the sampled weights before and after it."""
        updates = after - before
        old_grads = np.full_like(grads, np.nan) if self._grads is None else self._grads
        old_updates = np.full_like(grads, np.nan) if self._updates is None else self._updates
        self._grads, self._updates = grads, updates
        unchanged = (updates == 0) & (grads != 0)
        with np.errstate(all="ignore"):
            return Pulse(
                step,
                loss,
                rate,
                np.sqrt(_dots(grads, grads)),
                np.sqrt(_dots(updates, updates)),
                np.sqrt(_dots(before, before)),
                _dots(grads, old_updates),
                _dots(grads, old_grads),
                _dots(updates, old_updates),
                (grads == 0).sum(1),
                unchanged.sum(1),
            )


def _dots(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.einsum("ij,ij->i", a, b)


Rates = Callable[[], Mapping[Any, float]]
