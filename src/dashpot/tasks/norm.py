"""A batch normalisation whose statistics carry no gradient."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from dashpot.constraints import Interval, Optional, check
from dashpot.errors import ArgumentError

__all__ = ["DetachedBatchNorm2d"]


class DetachedBatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation that treats the mean and the variance of the batch as constants.

    In training mode, with m and v the mean and the unbiased variance of each channel over the batch and its pixels,

        y = weight * (x - m) / sqrt(v + eps) + bias,      running <- (1 - momentum) * running + momentum * (m, v),

    and in evaluation mode the running values (at first 0 and 1) stand for m and v. No gradient flows through m and v:
    dy/dx = weight / sqrt(v + eps), elementwise. `torch.nn.BatchNorm2d` differs in two points: it differentiates through
    the statistics, and normalises by the biased variance (its running variance is the unbiased one).

    Args:
        num_features: channels C of an input of shape (N, C, H, W).
        eps: added to the variance, at least 0.
        momentum: weight of the newest batch in the running averages, in (0, 1]; None for the plain average of all.

    Raises:
        ArgumentError: an argument is out of range; or, in training mode, a channel has fewer than two values, so that
            it has no unbiased variance.

    Source: the layer of the SlowAI notebooks (part 10); see `dashpot.tasks.fashion_mnist`.

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
        """Normalise `input`, shape (N, C, H, W); see the class."""
        self._check_input_dim(input)
        mean, variance = self.running_mean, self.running_var
        if self.training:
            mean, variance = self._observe(input)
        # With the statistics given from outside, torch's kernel differentiates by the input alone.
        return nn.functional.batch_norm(input, mean, variance, self.weight, self.bias, training=False, eps=self.eps)

    @torch.no_grad()
    def _observe(self, input: Tensor) -> tuple[Tensor, Tensor]:
        if input.numel() < 2 * self.num_features:
            raise ArgumentError(
                f"DetachedBatchNorm2d: training needs two values in each channel, got shape {tuple(input.shape)}."
            )
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        # Under autocast the input is narrower than the running statistics, and too narrow for sums.
        variance, mean = torch.var_mean(input.to(self.running_mean.dtype), dim=(0, 2, 3))
        self.num_batches_tracked.add_(1)
        weight = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, weight)
        self.running_var.lerp_(variance, weight)
        return mean, variance
