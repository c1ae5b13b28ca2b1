"""The probe "spectrum": gradients and updates of a few elements at consecutive steps, against the filter's response.

The gradients and weights of about `ELEMENTS` elements of the largest parameter group are stored at `STEPS` consecutive
steps. Directions are the changes without decay, divided by the current learning rate. Rows have the keys of `Spectrum`,
`group`, the index of the parameter group, and `virial`, the temperatures of the elements as in
`temperature_estimates.Virial`, or None.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from dashpot.engine.dtensor import local
from dashpot.watching.dynamics_samples import cut_of, flat, measurable
from dashpot.watching.learning_rates import current_lr
from dashpot.watching.probe import Moment, Probe
from dashpot.watching.spectrum_estimates import Spectrum, element_scales, spectrum
from dashpot.watching.temperature_estimates import Virial, virial

if TYPE_CHECKING:
    from dashpot.watching.watcher import Watcher

ELEMENTS = 64
"""Number of sampled elements."""
STEPS = 512
"""Number of consecutive steps of a measurement."""
_EARLY = 128  # steps after which the first measurement has a preliminary row
_TENSORS = 8  # largest number of sampled tensors: each costs a microsecond or two a step
_CONSTANT = 0.05  # largest relative change of a learning rate that counts as constant
_START = 33  # first step of the first measurement, after the initial steps of bias correction


class _Sample(NamedTuple):
    """Sampled elements: tensors, positions, and the parameter group."""

    group: int
    params: list[Tensor]
    cuts: list[slice]


class SpectrumProbe(Probe):
    """Spectrum of gradients and directions at consecutive steps."""

    kind: ClassVar[str] = "spectrum"

    def __init__(self, every: int, start: int = _START, steps: int = STEPS) -> None:
        self.every, self.start, self.steps = every, start, steps
        self._sample: _Sample | None = None
        self._ring: Tensor | None = None
        self._views: list[Tensor] = []  # of the sampled weights
        self._addresses: list[int] = []
        self._lrs: list[float] = []
        self._clips: list[Any] = []  # factors of `max_norm` in the previous steps
        self._scale = 1.0  # of a gradient scaler, in the previous step
        self._count = self._last = 0

    @property
    def pending(self) -> bool:
        return self._sample is not None

    def is_due(self, step: int) -> bool:
        return self.pending or (step >= self.start and (step - self.start) % self.every == 0)

    @torch.no_grad()
    def before_step(self, watcher: Watcher, moment: Moment) -> None:
        if self.pending and moment.step != self._last + 1:  # steps that were skipped or not measured
            self._end()
        if self._sample is None:
            self._begin(watcher)
        self._last = moment.step
        sample, ring = self._sample, self._ring
        if sample is None or ring is None:
            return
        if any(p.grad is None or p.grad.layout is not torch.strided for p in sample.params):
            self._end()
            return
        self._store(watcher, sample, ring[self._count])
        is_first = not len(watcher.record.rows(self.kind))
        if self._count == self.steps + 1 or (self._count == _EARLY + 1 and is_first):
            self._add(watcher, moment, sample, ring)
        if self._count == self.steps + 1:
            self._end()

    def close(self) -> None:
        """End the measurement."""
        self._end()

    def _store(self, watcher: Watcher, sample: _Sample, row: Tensor) -> None:
        """Store the gradients and weights before a step, and its learning rate."""
        grads = [p.grad for p in sample.params]
        torch.cat(_taken(grads, sample.cuts), out=row[0])
        torch.cat(self._weights(sample), out=row[1])
        if watcher.grad_scale != 1:
            row[0] /= watcher.grad_scale
        self._lrs.append(current_lr(watcher.optimizer, sample.group))
        self._clips.append(clip_of(watcher.optimizer, self._scale))
        self._scale = watcher.grad_scale
        self._count += 1

    def _weights(self, sample: _Sample) -> list[Tensor]:
        """Return views of the sampled weights; complete tensors that are not contiguous are copied."""
        shards = [local(p) for p in sample.params]
        addresses = [shard.data_ptr() for shard in shards]
        if addresses != self._addresses:
            self._views, self._addresses = _taken(sample.params, sample.cuts), addresses
        if all(map(_is_simple, shards)):
            return self._views
        return _taken(sample.params, sample.cuts)

    def _begin(self, watcher: Watcher) -> None:
        sample = _sample(watcher)
        if sample is None:
            return
        count = sum(len(range(cut.start, cut.stop, cut.step)) for cut in sample.cuts)
        device = sample.params[0].device
        self._sample, self._count, self._lrs, self._clips = sample, 0, [], []
        self._ring = torch.empty(self.steps + 1, 2, count, dtype=torch.float32, device=device)

    def _end(self) -> None:
        self._sample, self._ring, self._count = None, None, 0
        self._lrs, self._clips, self._views, self._addresses = [], [], [], []

    def _add(self, watcher: Watcher, moment: Moment, sample: _Sample, ring: Tensor) -> None:
        values = ring[: self._count].cpu().double().numpy()
        clips = np.array([*map(float, self._clips[1:]), 1.0])
        found, heat = _results(watcher, sample.group, values[:, 0] * clips[:, None], values[:, 1], np.array(self._lrs))
        row = {"step": moment.step, "group": sample.group, **asdict(found)}
        watcher.record.add(self.kind, {**row, "virial": None if heat is None else asdict(heat)})


def _results(watcher: Watcher, group: int, g: Any, w: Any, lr: Any) -> tuple[Spectrum, Virial | None]:
    """Return the results of n + 1 recorded gradients and weights, whose differences are n changes."""
    change, g, w, lr = np.diff(w, axis=0), g[:-1], w[:-1], lr[:-1, None]
    if (lr <= 0).any():
        return Spectrum(len(g), reason="The learning rate is 0 at some steps."), None
    rates = watcher.rates()
    if rates.view is None:
        return spectrum(g, -change / lr, None), None
    form = rates.group(group).form
    sign = -1.0 if watcher.optimizer.param_groups[group].get("maximize") else 1.0
    shrink = form.fixed_shrink + form.shrink_per_rate * lr
    direction = -(change + shrink * w) / lr
    g = sign * g + form.coupled_decay * w
    fitted = form.adaptive or form.rate is None
    found = spectrum(g, direction, form.filter, fitted=fitted)
    if form.filter is None or found.reason is not None or np.ptp(lr) > _CONSTANT * lr.mean():
        return found, None
    scale = element_scales(g, direction, form.filter) if fitted else np.ones(g.shape[1])
    return found, virial(g, w, scale * form.filter.dc_gain * lr.mean(), float(shrink.mean()))


def clip_of(optimizer: Any, grad_scale: float) -> Any:
    """Return the factor of `max_norm` in the last step of an optimizer of dashpot, a number or a 0-d tensor; else 1."""
    options, decision = getattr(optimizer, "options", None), getattr(optimizer, "_decision", None)
    return 1.0 if decision is None or getattr(options, "max_norm", None) is None else decision.scale * grad_scale


def _sample(watcher: Watcher) -> _Sample | None:
    """Choose elements, evenly over the tensors of the group with most elements."""
    found: list[tuple[int, int, list[Tensor]]] = []
    for index, group in enumerate(watcher.optimizer.param_groups):
        params = [p for p in group["params"] if p.grad is not None and measurable(p) is None]
        if params:
            found.append((sum(p.numel() for p in params), index, params))
    if not found:
        return None
    _, index, params = max(found, key=lambda item: item[:2])
    params = [p for p in params if p.device == params[0].device]
    chosen = [
        params[i] for i in sorted({round(x) for x in np.linspace(0, len(params) - 1, min(_TENSORS, len(params)))})
    ]
    limit = max(1, ELEMENTS // len(chosen))
    return _Sample(index, chosen, [cut_of(flat(p).numel(), limit) for p in chosen])


def _taken(tensors: Sequence[Any], cuts: list[slice]) -> list[Tensor]:
    return [_take(x, cut) for x, cut in zip(tensors, cuts, strict=True)]


def _take(x: Tensor, cut: slice) -> Tensor:
    x = local(x)
    if _is_simple(x):  # a single fast operation
        return x.detach().as_strided((len(range(cut.start, cut.stop, cut.step)),), (cut.step,), x.storage_offset())
    return flat(x)[cut]


def _is_simple(x: Tensor) -> bool:
    return x.is_contiguous() and not x.is_complex()
