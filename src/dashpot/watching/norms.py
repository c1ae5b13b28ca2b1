"""Norms of gradients, updates and weights by tensor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from dashpot._torch_private import foreach_norm, foreach_sub
from dashpot.watching.probe import Moment, Probe

if TYPE_CHECKING:
    from dashpot.watching.watcher import Watcher


class NormsProbe(Probe):
    """Norms of gradients, updates and weights, and the ratio of update to weight, by tensor and in all."""

    kind: ClassVar[str] = "norms"

    def __init__(self, every: int) -> None:
        self.every = every
        self._before: dict[Tensor, Tensor] = {}

    @torch.no_grad()
    def before_step(self, watcher: Watcher, moment: Moment) -> None:
        del moment
        self._before = {p: p.detach().clone() for p in watcher.names if p.grad is not None}

    @torch.no_grad()
    def after_step(self, watcher: Watcher, moment: Moment) -> None:
        scale = watcher.grad_scale
        params = list(self._before)
        grads = foreach_norm([p.grad for p in params if p.grad is not None])
        updates = foreach_norm(foreach_sub([p.detach() for p in params], list(self._before.values())))
        weights = foreach_norm([p.detach() for p in params])
        tensors: dict[str, dict[str, Any]] = {}
        for p, g, u, w in zip(params, grads, updates, weights, strict=True):
            row = {"grad": float(g) / scale, "update": float(u), "weight": float(w)}
            tensors[watcher.names[p]] = {**row, "ratio": row["update"] / row["weight"] if row["weight"] else None}
        self._before = {}
        totals: dict[str, Any] = {key: _total(tensors, key) for key in ("grad", "update", "weight")}
        ratio = totals["update"] / totals["weight"] if totals["weight"] else None
        loss = None if moment.loss is None else float(moment.loss)
        row = {"step": moment.step, "loss": loss, **totals, "ratio": ratio, "tensors": tensors}
        watcher.record.add(self.kind, row)


def _total(tensors: dict[str, dict[str, Any]], key: str) -> float:
    return sum(row[key] ** 2 for row in tensors.values()) ** 0.5
