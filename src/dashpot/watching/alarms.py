"""Warnings of instabilities and faults, from a sample of gradients and updates at every step."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from dashpot.watching.alarms_found import Alarm, RateLimit
from dashpot.watching.alarms_rates import confidence
from dashpot.watching.alarms_sample import Sampler, SampleReader, StepSample
from dashpot.watching.alarms_slow import SlowDetector
from dashpot.watching.alarms_state import StateDetector
from dashpot.watching.alarms_sudden import SuddenDetector
from dashpot.watching.learning_rates import current_lr
from dashpot.watching.probe import Moment, Probe
from dashpot.watching.pulse import GradientNorms, gradient_norms

if TYPE_CHECKING:
    from dashpot.watching.watcher import Watcher

_QUEUE = 8  # steps that an accelerator is ahead of the detectors
_CPU_QUEUE = 3  # steps: after a training step, the caches do not contain the code of the detectors


class Measured(NamedTuple):
    """Tensors of one step: samples of gradients and of the weights before and after the step, and gradient norms."""

    moment: Moment
    rate: float
    grads: Tensor
    before: Tensor
    after: Tensor
    norms: GradientNorms


class AlarmsProbe(Probe):
    """Runs the detectors, and adds a row of kind "warning" for each new alarm.

    Rows: step, kind, tensor, text, advice, confidence (measured rate of false alarms in words), severity in [0, 1]. Of
    sharded parameters, each rank examines its own shard.
    """

    kind: ClassVar[str] = "alarms"
    always: ClassVar[bool] = True
    needs_gradients: ClassVar[bool] = False
    prior = 0.005

    def __init__(self) -> None:
        self._params: list[Tensor] = []
        self._known: dict[Tensor, str] | None = None
        self._queue: list[Measured] = []
        self._limit = RateLimit()
        self._grads: Tensor | None = None
        self._before: Tensor | None = None
        self._last = -1  # step of the last sample
        self._norms: GradientNorms | None = None

    @torch.no_grad()
    def before_step(self, watcher: Watcher, moment: Moment) -> None:
        self._prepare(watcher)
        if self._last != moment.step - 1:  # otherwise, the weights after the previous step
            self._before = self._sampler.weights()
        if moment.has_gradients:
            self._read_gradients(watcher, moment.step)

    @torch.no_grad()
    def after_step(self, watcher: Watcher, moment: Moment) -> None:
        if not moment.has_gradients:
            self._read_gradients(watcher, moment.step)
        assert self._before is not None
        assert self._grads is not None
        assert self._norms is not None
        after = self._sampler.weights()
        rate = current_lr(watcher.optimizer)
        self._queue.append(Measured(moment, rate, self._grads, self._before, after, self._norms))
        self._before, self._last = after, moment.step
        if len(self._queue) >= (_CPU_QUEUE if after.device.type == "cpu" else _QUEUE):
            self._examine()

    def _prepare(self, watcher: Watcher) -> None:
        """Create the sampler and the detectors for the current parameters."""
        if watcher.names is self._known:
            return
        self._examine()
        self._known, self._record, params = watcher.names, watcher.record, list(watcher.names)
        self._queue, self._params, self._last = [], params, -1
        self._sampler = Sampler(params)
        self._names = names = list(watcher.names.values())
        self._reader = SampleReader(self._sampler.counts)
        self._sudden, self._slow = SuddenDetector(names), SlowDetector(names, _horizon(watcher.optimizer))
        self._state = StateDetector(names, [p.dim() > 1 for p in params])

    def _read_gradients(self, watcher: Watcher, step: int) -> None:
        self._grads = self._sampler.gather([p.grad for p in self._params])
        found = watcher.pulse.measured(step)
        self._norms = gradient_norms(watcher) if found is None else found

    def close(self) -> None:
        self._examine()

    @torch.no_grad()
    def _examine(self) -> None:
        queue, self._queue = self._queue, []
        for measured in queue:
            if bool(measured.moment.skipped):
                continue
            for alarm in self._limit.new(measured.moment.step, self._alarms(measured)):
                row = {"step": measured.moment.step, **alarm._asdict(), "confidence": confidence(alarm.kind)}
                self._record.add("warning", row)

    def _alarms(self, measured: Measured) -> Iterator[Alarm]:
        sample, total = self._sample(measured)
        for detector in (self._sudden, self._slow):
            yield from detector.update(sample)
        yield from self._state.update(sample, total)

    def _sample(self, measured: Measured) -> tuple[StepSample, np.ndarray]:
        moment = measured.moment
        scale = 1.0 if moment.scale is None else float(moment.scale)
        grads, before, after = (x.cpu().numpy() for x in (measured.grads, measured.before, measured.after))
        grads = grads if scale == 1 else grads / scale
        found = self._reader.read(moment.step, moment.loss_value(), measured.rate, grads, before, after)
        total = measured.norms.read(moment.scale)
        return found, np.array([total.get(name, -1.0) for name in self._names])


def _horizon(optimizer: Any) -> float | None:
    """Return the horizon of the average of squared gradients of the first group, in steps."""
    group = optimizer.param_groups[0]
    betas, alpha = group.get("betas"), group.get("alpha")
    beta2 = betas[-1] if isinstance(betas, (tuple, list)) and len(betas) > 1 else alpha
    return 1 / (1 - float(beta2)) if beta2 is not None and 0 <= float(beta2) < 1 else None
