"""Norms and inner products of consecutive gradients and updates, on a fixed sample of the elements of each tensor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from dashpot._torch_private import local_tensor

SAMPLE = 128
"""Largest number of sampled elements of a tensor."""


class StepSample(NamedTuple):
    """One step. Arrays have one entry for each tensor, NaN without a gradient; norms cover the sampled elements.

    Attributes:
        step: Number of the step.
        loss: Loss of the batch before the step, or None.
        rate: Current learning rate of the first group.
        grad: Norms of the gradients.
        update: Norms of the updates of the step.
        weight: Norms of the weights before the step.
        slope: Inner products of the gradient with the previous update; positive past the minimum along that update.
        jerk: Norms of the second differences of the gradients.
        zeros: Shares of sampled elements whose gradient is exactly 0.
        stalled: Shares of sampled elements with a nonzero gradient and an unchanged weight.
    """

    step: int
    loss: float | None
    rate: float
    grad: np.ndarray
    update: np.ndarray
    weight: np.ndarray
    slope: np.ndarray
    jerk: np.ndarray
    zeros: np.ndarray
    stalled: np.ndarray


class Sampler:
    """Gathers the same evenly spaced elements of each tensor into one matrix, padded with zeros.

    Args:
        params: Parameters on one device, real or complex, at least one.
        size: Largest number of elements of a tensor.
    """

    def __init__(self, params: Sequence[Tensor], size: int = SAMPLE) -> None:
        self.params, self.size = list(params), size
        self.counts = [_sampled(p, size).numel() for p in self.params]
        ends = np.cumsum([0, *self.counts])
        index = np.full((len(self.params), size), ends[-1])
        for row, start, count in zip(index, ends, self.counts, strict=False):
            row[:count] = np.arange(start, start + count)
        self._index = torch.as_tensor(index, device=self.params[0].device)
        self._end = torch.zeros(1, device=self.params[0].device)

    @torch.no_grad()
    def gather(self, tensors: Sequence[Tensor | None]) -> Tensor:
        """Return a float32 matrix with one row for each tensor; sampled elements of None are NaN."""
        parts = [self._part(x, count) for x, count in zip(tensors, self.counts, strict=True)]
        return torch.cat([*parts, self._end])[self._index]

    def _part(self, x: Tensor | None, count: int) -> Tensor:
        if x is None or x.layout != torch.strided:
            return torch.full((count,), torch.nan, device=self._end.device)
        part = _sampled(x, self.size)
        return part if part.dtype == torch.float32 else part.float()


def _sampled(x: Tensor, size: int) -> Tensor:
    """Return evenly spaced local elements; a view if possible."""
    if type(x) in _PLAIN and x.is_contiguous() and not x.is_complex():
        return _view(x, size)
    local = local_tensor(x, x).detach()
    return _view((torch.view_as_real(local) if local.is_complex() else local).contiguous(), size)


_PLAIN = (Tensor, torch.nn.Parameter)


def _view(x: Tensor, size: int) -> Tensor:
    count = x.numel()
    step = -(-count // size) if count > size else 1
    return x.as_strided((-(-count // step),), (step,))  # one operation, several times faster than reshape and slice


class SampleReader:
    """Computes samples from matrices of consecutive gradients and updates.

    Args:
        counts: Numbers of sampled elements of the tensors.
    """

    def __init__(self, counts: Sequence[int]) -> None:
        self._counts = np.maximum(np.array(counts), 1)
        self._grads = self._updates = self._change = _UNKNOWN
        self._step = 0

    def read(
        self, step: int, loss: float | None, rate: float, grads: np.ndarray, before: np.ndarray, after: np.ndarray
    ) -> StepSample:
        """Return the sample of a step, from its gradients and the weights before and after it."""
        if step != self._step + 1:
            self._grads = self._updates = self._change = _UNKNOWN
        with np.errstate(all="ignore"):
            updates, change = after - before, grads - self._grads
            jerk = change - self._change
            unchanged = (updates == 0) & (grads != 0)
            found = StepSample(
                step,
                loss,
                rate,
                np.sqrt(_dots(grads, grads)),
                np.sqrt(_dots(updates, updates)),
                np.sqrt(_dots(before, before)),
                _dots(grads, self._updates),
                np.sqrt(_dots(jerk, jerk)),
                1 - (grads != 0).sum(1) / self._counts,
                unchanged.sum(1) / self._counts,
            )
        self._step, self._grads, self._updates, self._change = step, grads, updates, change
        return found


_UNKNOWN = np.full((1, 1), np.nan)


def _dots(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a * b).sum(1)
