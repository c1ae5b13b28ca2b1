"""Norms of gradients, updates and weights by tensor."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from dashpot.engine.dtensor import has_dtensor, local
from dashpot.engine.eager import real_view
from dashpot.engine.program import compute_dtype
from dashpot.watching.learning_rates import learning_rates
from dashpot.watching.probe import Moment, Probe
from dashpot.watching.pulse import GradientNorms, gradient_norms, joint_norm
from dashpot.watching.tensor_norms import norms

if TYPE_CHECKING:
    from dashpot.watching.watcher import Watcher

_WIDE = (torch.float32, torch.float64)
_CLOSURE = "The step was given a closure: the gradient is that of its last evaluation."


class NormsProbe(Probe):
    """Norms of gradients, updates and weights, their ratio and the angle of the update, by tensor and in all.

    Rows: step, loss, lr (by group, including the schedule), grad, update, weight (after the step), ratio
    update/weight, angle between the weights before and after in radians, and tensors {name: {grad, update, weight,
    ratio, angle}}. Steps with a closure measure all parameters, and the gradients after the step.
    """

    kind: ClassVar[str] = "norms"
    needs_gradients: ClassVar[bool] = False
    prior = 0.05

    def __init__(self, every: int) -> None:
        self.every = every
        self._params: list[Tensor] = []
        self._before: list[Tensor] = []
        self._lr: list[Any] = []
        self._grads: GradientNorms | None = None

    @torch.no_grad()
    def before_step(self, watcher: Watcher, moment: Moment) -> None:
        params = _measured_params(watcher, moment)
        self._params, self._before = params, [local(p).clone() for p in params]
        self._lr = learning_rates(watcher.optimizer)
        self._grads = None
        if moment.has_gradients:
            self._grads = watcher.pulse.measured(moment.step) or gradient_norms(watcher)

    @torch.no_grad()
    def after_step(self, watcher: Watcher, moment: Moment) -> None:
        params = self._params
        sums = watcher.summed(params, _sums(params, self._before)) if params else torch.zeros(3, 0)
        grads = self._grads or gradient_norms(watcher)
        names = [watcher.names[p] for p in params]
        self._params, self._before, self._grads = [], [], None
        watcher.record.add_later(self.kind, NormsRow(names, sums, grads, self._lr, moment))


def _measured_params(watcher: Watcher, moment: Moment) -> list[Tensor]:
    """Return the parameters that the step may change; on all ranks the same ones if parameters are sharded."""
    everything = list(watcher.names)
    if not moment.has_gradients or has_dtensor(everything):
        return everything
    return watcher.gradients()[0]


def _sums(params: Sequence[Tensor], before: Sequence[Tensor]) -> Tensor:
    """Return the squared norms of updates and weights, and the products of update and weight, a (3, n) tensor."""
    after = _vectors(params)
    opposite = [old.sub_(w) for w, old in zip(after, _vectors(before), strict=True)]  # in the memory of the copies
    products = torch.stack([torch.dot(u, w).to(after[0].device) for u, w in zip(opposite, after, strict=True)])
    return torch.stack([norms(opposite).double().square(), norms(after).double().square(), -products.double()])


def _vectors(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return the real elements of each tensor or shard as a vector in the dtype of computation."""
    if all(type(x) in (Tensor, nn.Parameter) and x.dtype in _WIDE for x in tensors):
        return [x.detach().reshape(-1) for x in tensors]
    parts = [real_view(local(x.detach())).reshape(-1) for x in tensors]
    return [x.to(compute_dtype(x.dtype)) for x in parts]


class NormsRow:
    """Row of a step whose tensors are read later."""

    def __init__(self, names: list[str], sums: Tensor, grads: GradientNorms, lr: list[Any], moment: Moment) -> None:
        self.names, self.sums, self.grads, self.lr, self.moment = names, sums, grads, lr, moment

    def __call__(self) -> dict[str, Any] | None:
        moment = self.moment
        if bool(moment.skipped):
            return None
        grads = self.grads.read(moment.scale)
        columns = zip(*self.sums.tolist(), strict=True)
        tensors = {
            name: {"grad": grads.get(name), **_changes(*sums)}
            for name, sums in zip(self.names, columns, strict=True)
            if name in grads or sums[0]
        }
        totals = _changes(*map(sum, self.sums.tolist()))
        row = {
            "step": moment.step,
            "loss": moment.loss_value(),
            "lr": [None if lr is None else float(lr) for lr in self.lr],
            "grad": joint_norm(grads.values()) if grads else None,
            **totals,
            "tensors": tensors,
        }
        return row if moment.has_gradients else {**row, "reason": _CLOSURE}


def _changes(update: float, weight: float, product: float) -> dict[str, float | None]:
    """Return the norms, the ratio and the angle, from squared norms and the product of update and new weight."""
    u, w = math.sqrt(update), math.sqrt(weight)
    return {"update": u, "weight": w, "ratio": u / w if w else None, "angle": _angle(u, w, product)}


def _angle(u: float, w: float, product: float) -> float | None:
    """Return the angle between the new weight and the new weight minus the update.

    The part of the update orthogonal to the weight is computed, not the cosine, which cannot resolve small angles.
    """
    if not w or not math.isfinite(u + w):
        return None
    along = product / w
    before = w - along
    across = math.sqrt(max(u * u - along * along, 0.0))
    return math.atan2(across, before) if across or before else None
