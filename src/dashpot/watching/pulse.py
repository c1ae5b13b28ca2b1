"""The norms of the gradients at every step, the input of warnings."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from dashpot.engine.dtensor import has_dtensor, to_local
from dashpot.watching.probe import Moment, Probe
from dashpot.watching.tensor_norms import norms

if TYPE_CHECKING:
    from dashpot.watching.watcher import Watcher


class PulseProbe(Probe):
    """Norm of the gradient of each tensor and of all, and the loss, without a synchronization with the host.

    Rows: step, loss, grad, tensors {name: norm}, and skipped if the optimizer itself has skipped the step. Norms may be
    infinite or nan.
    """

    kind: ClassVar[str] = "pulse"
    always: ClassVar[bool] = True
    needs_gradients: ClassVar[bool] = False
    prior = 0.005

    def __init__(self) -> None:
        self._step = 0
        self._measured: GradientNorms | None = None

    def measured(self, step: int) -> GradientNorms | None:
        """Return the norms of a step, if it is the last one that was measured."""
        return self._measured if step == self._step else None

    def before_step(self, watcher: Watcher, moment: Moment) -> None:
        if moment.has_gradients:
            self._measure(watcher, moment)

    def after_step(self, watcher: Watcher, moment: Moment) -> None:
        if not moment.has_gradients:
            self._measure(watcher, moment)

    def _measure(self, watcher: Watcher, moment: Moment) -> None:
        self._step, self._measured = moment.step, gradient_norms(watcher)
        watcher.record.add_later(self.kind, PulseRow(self._measured, moment))


class GradientNorms:
    """Norms of the gradients of some parameters, as a vector.

    Args:
        names: Names of the parameters that have a gradient.
        values: Norms, multiplied by the scale of a gradient scaler.
    """

    def __init__(self, names: Sequence[str], values: Tensor) -> None:
        self.names, self.values = names, values

    def read(self, scale: Tensor | float | None) -> dict[str, float]:
        """Return the norms by name, divided by the scale."""
        factor = 1.0 if scale is None else float(scale)
        return {name: x / factor for name, x in zip(self.names, self.values.tolist(), strict=True)}


class PulseRow:
    """Row of a step whose tensors are read later."""

    def __init__(self, norms: GradientNorms, moment: Moment) -> None:
        self.norms, self.moment = norms, moment

    def __call__(self) -> dict[str, Any] | None:
        moment = self.moment
        if moment.scale is not None and bool(moment.skipped):
            return None  # a gradient scaler searches for its scale
        tensors = self.norms.read(moment.scale)
        grad = joint_norm(tensors.values())
        row = {"step": moment.step, "loss": moment.loss_value(), "grad": grad, "tensors": tensors}
        return {**row, "skipped": True} if bool(moment.skipped) else row


def joint_norm(norms: Iterable[float]) -> float:
    """Return the norm over all tensors from those of single tensors."""
    return math.sqrt(sum(x * x for x in norms))


@torch.no_grad()
def gradient_norms(watcher: Watcher) -> GradientNorms:
    """Return the norms of all gradients; of sharded gradients, over all shards."""
    params, grads = watcher.gradients()
    if not has_dtensor(list(watcher.names)):
        return GradientNorms([watcher.names[p] for p in params], norms(grads))
    return _sharded_norms(watcher, params, grads)


def _sharded_norms(watcher: Watcher, params: list[Tensor], grads: list[Tensor]) -> GradientNorms:
    """Return the norms over all shards, of the tensors that have a gradient on any rank."""
    everything = list(watcher.names)
    _, local = to_local("Watcher", params, grads)
    found = norms(local)
    sums = torch.zeros(2, len(everything), dtype=torch.float64, device=found.device)  # squares, and counts
    having = set(params)
    at = torch.tensor([i for i, p in enumerate(everything) if p in having], dtype=torch.long, device=found.device)
    sums[0, at], sums[1, at] = found.double().square(), 1.0
    sums = watcher.summed(everything, sums)
    present = [i for i, count in enumerate(sums[1].tolist()) if count]
    names = [watcher.names[everything[i]] for i in present]
    return GradientNorms(names, sums[0, present].sqrt())
