"""Changes of parameters under an update rule that is not known."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from dashpot.utils.scalars import is_number, read
from dashpot.watching.dynamics_samples import Bucket, buckets_of_samples, measurable
from dashpot.watching.dynamics_statistics import real_count, relative, statistics_row
from dashpot.watching.effective_rate import applied_rate

if TYPE_CHECKING:
    from dashpot.watching.watcher import Watcher

_NOTHING = dict.fromkeys(("alpha", "r", "e", "residual", "stalled", "agreement", "cosine"))


class Unknown(NamedTuple):
    """Parameters of one group before a step.

    Attributes:
        bucket: The parameters.
        w: Their sampled weights.
        lr: Setting `lr` of the group, or None.
        reason: Reason why the rule is unknown.
    """

    bucket: Bucket
    w: Tensor
    lr: float | None
    reason: str

    def rows(self, watcher: Watcher) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the entries of `tensors` and `effective_lr`, after the step."""
        tensors: dict[str, Any] = {}
        rates: dict[str, Any] = {}
        changes = self.bucket.split(self.bucket.gather(self.bucket.params) - self.w)
        for p, dw, cut in zip(self.bucket.params, changes, self.bucket.cuts, strict=True):
            name = watcher.names[p]
            row = {"dw": statistics_row(dw, real_count(p)), "sampled": len(dw), "reason": self.reason}
            tensors[name] = {**_NOTHING, **row}
            rates[name] = self._rate(watcher, p, dw, cut)
        return tensors, rates

    def _rate(self, watcher: Watcher, p: Tensor, dw: Tensor, cut: slice) -> dict[str, Any]:
        found = {"nominal": self.lr, "predicted": None, "measured": None, "ratio": None, "reason": self.reason}
        if p.grad is None or p.grad.layout != torch.strided:
            return found
        g = Bucket(0, (p,), (cut,), (len(dw),)).gather([p.grad]) / watcher.grad_scale
        rate, _, unexplained = applied_rate(dw, g, torch.zeros_like(g), 0.0)
        return {**found, "measured": rate, "ratio": relative(dw, g), "unexplained": unexplained}


def unknown_steps(watcher: Watcher) -> list[Unknown]:
    """Return the parameters of an optimizer whose update rule is unknown; empty for those of dashpot and torch."""
    reason = watcher.rates().reason
    if reason is None:
        return []
    found = []
    for index, group in enumerate(watcher.optimizer.param_groups):
        members = [p for p in group["params"] if measurable(p) is None and p.grad is not None]
        lr = read(group.get("lr"))
        for bucket in buckets_of_samples(index, members):
            found.append(Unknown(bucket, bucket.gather(bucket.params), float(lr) if is_number(lr) else None, reason))
    return found
