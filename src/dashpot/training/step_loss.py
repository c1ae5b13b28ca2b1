"""Mean loss of an optimizer step: sums and counts of its micro-batches, and the weights of their gradients."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dashpot._torch_private import local_tensor
from dashpot.tasks.loss_value import nonzero, weighted, wide
from dashpot.utils.scalars import scalar_dtype

if TYPE_CHECKING:
    from dashpot.training.distributed.engine import Engine
    from dashpot.training.loop_state import Batch


class StepLoss:
    """Sum and count of the losses of one optimizer step.

    The gradient of a step is that of the mean loss over all its micro-batches and ranks: sum_i n_i L_i / sum_i n_i, for
    mean losses L_i over counts n_i. The total count may be known only after the last forward pass. Each micro-batch is
    therefore backpropagated with the weight n_i W / R, for W ranks, over which gradients are averaged. The reference R
    is an estimate of the total count from the first micro-batch. It is equal on all ranks and keeps the weights close
    to 1 / (number of micro-batches), so that gradients in fp16 do not overflow. After the last backward pass, the
    gradients are multiplied by `factor` = R / (total count). With a single micro-batch, and with equal numbers of
    examples, R is the total count, and the factor is 1.

    Args:
        engine: Device and processes.

    Attributes:
        batches: Number of micro-batches so far.
        count: Count of the micro-batches so far on this rank.
        total: Count of the whole step over all ranks, set by the last micro-batch.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine, self.batches = engine, 0
        self.count: Any = 0
        self.total: Any = None
        self._known: int | None = 0  # number of examples over all ranks; None if the counts are other counts
        self._reference: Any = None

    def add(self, batch: Batch) -> Any:
        """Add a micro-batch and return the weight of its mean loss in the backward pass. This is a collective."""
        self.batches += 1
        self._known = None if self._known is None or batch.counted is not None else _sum(self._known, batch.total)
        if self.batches == 1:
            self._loss, self._sum, self.count = batch.loss.detach(), None, _precise(batch.count)
        else:
            self._sum = self.sum + weighted(batch.loss.detach(), batch.count)
            self.count = self.count + _precise(batch.count)
        if batch.is_last_microbatch:
            self.total = self._global_count()
        if self.batches == 1:
            self._reference = self.total
            if self.total is None:
                self._reference = nonzero(self._global_count()) * batch.remaining
            elif self.engine.world_size == 1:
                return 1
        return self.weight(batch.count, self._reference)

    def weight(self, count: Any, total: Any) -> Any:
        """Return the weight of the mean loss over `count` on this rank in the mean over `total`."""
        return _precise(count) * self.engine.world_size / nonzero(total)

    @property
    def factor(self) -> Any:
        """Factor that the accumulated gradients lack: 1, another number, or a 0-d tensor."""
        return 1 if self._reference is self.total else self._reference / nonzero(self._total)

    @property
    def sum(self) -> Tensor:
        """Sum of the losses so far on this rank."""
        return weighted(self._loss, self.count) if self._sum is None else self._sum

    @property
    def mean(self) -> Tensor:
        """Part of this rank in the mean loss of the step, whose sum over the ranks is the mean loss."""
        if self.batches == 1 and self.engine.world_size == 1:
            return self._loss
        mean = self.sum / nonzero(self._total)
        return mean.to(self.sum.dtype)

    @property
    def _total(self) -> Any:
        # Without a last micro-batch, because it was cancelled, a single process uses the others.
        return self.count if self.total is None else self.total

    def _global_count(self) -> Any:
        return self.engine.sum_count(self.count) if self._known is None else self._known


def backpropagated(loss: Tensor, weight: Any) -> Tensor:
    """Return `loss * weight`, in at least float32 unless the weight is the number 1."""
    if not isinstance(weight, Tensor):
        return loss if weight == 1 else wide(loss) * weight
    return wide(loss) * weight.to(wide(loss).dtype)


@torch.no_grad()
def multiply_gradients(gradients: Iterable[Tensor], factor: Any) -> None:
    """Multiply gradients in place by a number or a 0-d tensor."""
    for grad in gradients:
        local_tensor(grad, grad).mul_(factor.to(grad.device) if isinstance(factor, Tensor) else factor)


class KeptGradients:
    """Gradients that a callback has kept from the previous step, held back while new gradients are accumulated.

    Otherwise, the kept gradients would be multiplied by the factor of the step.
    """

    def __init__(self) -> None:
        self._held: list[tuple[Tensor, Tensor]] = []

    def hold(self, params: Iterable[Tensor]) -> None:
        """Take the gradients of `params`, and discard the ones held before."""
        self._held = [(p, p.grad) for p in params if p.grad is not None]
        for p, _ in self._held:
            p.grad = None

    @torch.no_grad()
    def add_back(self) -> None:
        """Add the held gradients to the new ones."""
        for p, grad in self._held:
            p.grad = grad if p.grad is None else p.grad.add_(grad)
        self._held = []


def _precise(count: Any) -> Any:
    """Return a tensor in the widest dtype of its device, and a number unchanged."""
    return count.to(scalar_dtype(count.device)) if isinstance(count, Tensor) else count


def _sum(known: int, total: int | None) -> int | None:
    return None if total is None else known + total
