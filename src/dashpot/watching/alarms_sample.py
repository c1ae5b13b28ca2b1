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
        self._strides = [_stride(p.numel(), size) for p in self.params]
        self._views: list[Tensor] = []  # of the weights
        self._places: list[int] = []
        ends = np.cumsum([0, *self.counts])
        index = np.full((len(self.params), size), ends[-1])
        for row, start, count in zip(index, ends, self.counts, strict=False):
            row[:count] = np.arange(start, start + count)
        self._index = torch.as_tensor(index, device=self.params[0].device)
        self._end = torch.zeros(1, device=self.params[0].device)

    @torch.no_grad()
    def gather(self, tensors: Sequence[Tensor | None]) -> Tensor:
        """Return a float32 matrix with one row for each tensor; sampled elements of None are NaN."""
        return self._matrix(list(map(self._part, tensors, self.counts, self._strides)))

    @torch.no_grad()
    def weights(self) -> Tensor:
        """Return the matrix of the parameters. Views of their elements are kept while the parameters stay in place."""
        places = [(p if type(p) in _PLAIN else local_tensor(p, p)).data_ptr() for p in self.params]
        if places != self._places:
            self._views = [_sampled(p, self.size).detach() for p in self.params]
            self._places = places if [view.data_ptr() for view in self._views] == places else []
        return self._matrix([view if view.dtype == torch.float32 else view.float() for view in self._views])

    def _matrix(self, parts: list[Tensor]) -> Tensor:
        return torch.cat([*parts, self._end])[self._index]

    def _part(self, x: Tensor | None, count: int, stride: int) -> Tensor:
        if type(x) is Tensor and x.dtype == torch.float32 and x.is_contiguous():  # the usual case, at every step
            return x.as_strided((count,), (stride,))
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
    stride = _stride(count, size)
    return x.as_strided((-(-count // stride),), (stride,))  # one operation, several times faster than reshape and slice


def _stride(count: int, size: int) -> int:
    return -(-count // size) if count > size else 1


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
            moving = grads != 0
            found = StepSample(
                step,
                loss,
                rate,
                np.sqrt(_dots(grads, grads)),
                np.sqrt(_dots(updates, updates)),
                np.sqrt(_dots(before, before)),
                _dots(grads, self._updates),
                np.sqrt(_dots(jerk, jerk)),
                1 - np.count_nonzero(moving, 1) / self._counts,
                np.count_nonzero(moving & (updates == 0), 1) / self._counts,
            )
        self._step, self._grads, self._updates, self._change = step, grads, updates, change
        return found


_UNKNOWN = np.full((1, 1), np.nan)


def _dots(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.einsum("ij,ij->i", a, b)
