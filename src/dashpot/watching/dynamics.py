"""The probe "dynamics": the recursion of changes, effective learning rates, stalled elements and sign agreement.

Rows, from a pair of consecutive steps and a fixed sample of at most `ELEMENTS` elements per tensor:

    step            step number, that of the second step of the pair
    tensors         by name: alpha, r, e, dw: [sup, mean, sd, norm] as in `record_steps`, with the norm scaled from the
                    sample to the whole tensor; residual: norm of the difference between recursion and measured change,
                    relative to the change (rounding of the weights); stalled, agreement, cosine: see `resolution` and
                    `effective_rate`; sampled: number of elements; reason: why alpha, r and e are missing
    effective_lr    by name: rate of the change relative to the unit-gain filtered gradient over the denominators, which
                    is `applied` of `rates`; `ratio` of `rates` for unknown rules, see `meaning`
    rates           by name: nominal: learning rate times schedule; predicted: nominal times numerator and DC gain of
                    the filter; measured: regression of the change on the unit-gain filtered gradient over the
                    denominators; decay: measured fraction of the weight subtracted; clip: factor of clipping on the
                    newest gradient (`max_norm`, `clip_grad_norm_`); applied: measured times clip; unexplained: relative
                    remainder of the regression; ratio: norm of the change over norm of the gradient, which includes
                    denominators, momentum and decay, and is all that is known for rules outside dashpot and torch
    meaning         of `effective_lr`, a sentence
    reason          why the row has no tensors
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from dashpot.analysis.step_recursion import Carry, Row, recursion
from dashpot.watching.dynamics_replay import Replayed, Snapshot, omission, replayed, snapshots
from dashpot.watching.dynamics_statistics import real_count, relative, statistics_row
from dashpot.watching.dynamics_unknown import Unknown, unknown_steps
from dashpot.watching.effective_rate import applied_rate, sign_agreement
from dashpot.watching.gradient_capture import GradientCapture
from dashpot.watching.probe import Moment, Probe
from dashpot.watching.resolution import rounding_of, stalled_share

if TYPE_CHECKING:
    from dashpot.watching.watcher import Watcher

APPLIED = "Change per unit of the filtered gradient (DC gain 1) over the denominators, times the factor of clipping."
RATIO = "Norm of the change over the norm of the gradient, since the update rule is unknown."
NO_PAIR = "The two steps of a measurement did not both update the parameters."


class DynamicsProbe(Probe):
    """Recursion of changes at pairs of consecutive steps, with effective learning rates."""

    kind: ClassVar[str] = "dynamics"
    needs_gradients: ClassVar[bool] = False
    prior = 0.5

    def __init__(self, every: int) -> None:
        self.every = every
        self._first: int | None = None  # step at which the pair began
        self._carry: dict[tuple[int, ...], Carry | None] = {}
        self._snapshots: list[Snapshot] = []
        self._unknown: list[Unknown] = []
        self._capture = GradientCapture()

    @property
    def pending(self) -> bool:
        return self._first is not None

    def is_due(self, step: int) -> bool:
        return self.pending or super().is_due(step)

    @torch.no_grad()
    def before_step(self, watcher: Watcher, moment: Moment) -> None:
        del moment
        self._snapshots = snapshots(watcher)
        self._unknown = [] if self._snapshots else unknown_steps(watcher)
        self._capture.compare(watcher.optimizer)

    @torch.no_grad()
    def after_step(self, watcher: Watcher, moment: Moment) -> None:
        found = [(item, replayed(watcher, item)) for item in self._snapshots]
        pairs = [(item, result) for item, result in found if result is not None]
        self._snapshots = []
        if self._first != moment.step - 1:
            self._first = moment.step
            self._carry = {item.bucket.key: _recursion(item, result, None)[1] for item, result in pairs}
            self._capture.open(watcher.names)
        else:
            watcher.record.add(self.kind, self._row(watcher, moment, pairs))
            self.close()

    def close(self) -> None:
        """End a pair of steps, and remove the hooks on gradients."""
        self._capture.close()
        self._first, self._carry = None, {}

    def _row(self, watcher: Watcher, moment: Moment, pairs: list[tuple[Snapshot, Replayed]]) -> dict[str, Any]:
        tensors: dict[str, Any] = {}
        rates: dict[str, Any] = {}
        for item, result in pairs:
            row, _ = _recursion(item, result, self._carry.get(item.bucket.key))
            columns = _columns(item, result, row)
            for index, p in enumerate(item.bucket.params):
                own = {name: parts[index] for name, parts in columns.items()}
                name = watcher.names[p]
                tensors[name] = _tensor_row(watcher, item, p, own)
                rates[name] = _rate_row(item, result, own, self._capture.factor(p))
        for item in self._unknown:
            found = item.rows(watcher)
            tensors, rates = tensors | found[0], rates | found[1]
        reason = None if tensors else omission(watcher) or NO_PAIR
        key, meaning = ("ratio", RATIO) if self._unknown else ("applied", APPLIED)
        effective = {name: rate[key] for name, rate in rates.items()}
        row = {"step": moment.step, "tensors": tensors, "effective_lr": effective, "rates": rates}
        return {**row, "meaning": meaning, "reason": reason}


def _recursion(item: Snapshot, result: Replayed, last: Carry | None) -> tuple[Row | None, Carry | None]:
    """Return the recursion of a bucket, whose steps are numbered from the first step of the pair."""
    step = result.step
    t = item.clock.t if last is None else last.t + 1  # states of torch.optim.SGD have no step count
    if step is None:
        return None, None
    return recursion(t, step, result.dw, result.settings, last)


def _columns(item: Snapshot, result: Replayed, row: Row | None) -> dict[str, tuple[Tensor, ...]]:
    """Return all vectors of a bucket, by quantity and parameter."""
    vectors = {"dw": result.dw, "w": item.w, "g": result.g, "update": result.update}
    if result.step is not None:
        y, u = result.step.y, result.step.u
        vectors |= {"direction": result.direction, "past": y - result.step.coefficients.gain * u, "input": u}
    if row is not None:
        vectors |= {"alpha": row.alpha, "r": row.r, "e": row.e, "error": row.error}
    return {name: item.bucket.split(x) for name, x in vectors.items() if x is not None}


def _tensor_row(watcher: Watcher, item: Snapshot, p: Tensor, own: dict[str, Tensor]) -> dict[str, Any]:
    row: dict[str, Any] = {name: statistics_row(own.get(name), real_count(p)) for name in ("alpha", "r", "e", "dw")}
    row["residual"] = relative(own.get("error"), own["dw"])
    dtype = p.dtype.to_real() if p.is_complex() else p.dtype
    rounding = rounding_of(watcher.optimizer, p.dtype)
    row["stalled"] = stalled_share(own["update"], own["w"], dtype, rounding)
    agreement = sign_agreement(own["past"], own["input"]) if "past" in own else (None, None)
    row["agreement"], row["cosine"] = agreement
    reason = item.reason or (None if "alpha" in own else NO_PAIR)
    return {**row, "sampled": len(own["dw"]), "reason": reason}


def _rate_row(item: Snapshot, result: Replayed, own: dict[str, Tensor], outside: float | None) -> dict[str, Any]:
    found = {"nominal": item.nominal, "predicted": result.predicted, "ratio": relative(own["dw"], own["g"])}
    clip = result.clip if outside is None else result.clip * outside
    if "direction" not in own:
        return {**found, "measured": None, "decay": None, "clip": clip, "applied": None, "unexplained": None}
    rate, decay, rest = applied_rate(own["dw"], own["direction"], own["w"], result.decay)
    applied = None if rate is None else rate * clip
    return {**found, "measured": rate, "decay": decay, "clip": clip, "applied": applied, "unexplained": rest}
