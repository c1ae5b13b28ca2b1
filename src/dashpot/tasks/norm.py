"""Batch normalization without gradients through the batch statistics."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from dashpot.constraints import Interval, Optional, check
from dashpot.errors import ArgumentError


class DetachedBatchNorm2d(nn.BatchNorm2d):
    """Batch normalization that detaches the mean and variance of the batch from the graph.

    In training mode, m and v are the mean and the unbiased variance of each channel over the batch and its pixels, and

        y = weight * (x - m) / sqrt(v + eps) + bias,      running <- (1 - momentum) * running + momentum * (m, v).

    In evaluation mode, m and v are the running values (initially 0 and 1). No gradient flows through m and v:
    dy/dx = weight / sqrt(v + eps), elementwise. In contrast, `torch.nn.BatchNorm2d` differentiates through the
    statistics and normalizes by the biased variance (its running variance is unbiased).

    Args:
        num_features: Number of channels C of an input of shape (N, C, H, W); >= 1.
        eps: Constant >= 0 added to the variance.
        momentum: Weight of the current batch in the running averages, in (0, 1]; None gives all batches equal weight.

    Raises:
        ArgumentError: If an argument is out of range, or if a channel has fewer than two values in training mode.

    Source: Normalization layer of the SlowAI notebooks (part 10); see `dashpot.tasks.fashion_mnist`.

    >>> norm = DetachedBatchNorm2d(1)
    >>> x = torch.tensor([1.0, 3.0]).reshape(2, 1, 1, 1).requires_grad_()
    >>> norm(x).sum().backward()
    >>> [round(value, 4) for value in x.grad.flatten().tolist()]
    [0.7071, 0.7071]
    """

    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float | None = 0.1) -> None:
        check("DetachedBatchNorm2d", "num_features", num_features, Interval(1, math.inf, "left", integer=True))
        check("DetachedBatchNorm2d", "eps", eps, Interval(0, math.inf, "left"))
        check("DetachedBatchNorm2d", "momentum", momentum, Optional(Interval(0, 1, "right")))
        super().__init__(num_features, eps, momentum)

    def forward(self, input: Tensor) -> Tensor:
        """Normalize `input` of shape (N, C, H, W)."""
        self._check_input_dim(input)
        mean, variance = self.running_mean, self.running_var
        if self.training:
            mean, variance = self._update_statistics(input)
        # Since the statistics are passed as arguments, torch's kernel does not differentiate through them.
        return nn.functional.batch_norm(input, mean, variance, self.weight, self.bias, training=False, eps=self.eps)

    @torch.no_grad()
    def _update_statistics(self, input: Tensor) -> tuple[Tensor, Tensor]:
        if input.numel() < 2 * self.num_features:
            raise ArgumentError(
                f"DetachedBatchNorm2d: input must have at least two values per channel in training mode, "
                f"got shape {tuple(input.shape)}."
            )
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        # Under autocast, the precision of the input is too low for sums.
        variance, mean = torch.var_mean(input.to(self.running_mean.dtype), dim=(0, 2, 3))
        self.num_batches_tracked.add_(1)
        weight = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, weight)
        self.running_var.lerp_(variance, weight)
        return mean, variance
