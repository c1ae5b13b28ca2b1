"""Averages of the weights, used for evaluation."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from dashpot._torch_private import foreach_copy_, foreach_lerp_, local_tensor
from dashpot.constraints import FLAG, POLE, Interval, OneOf, check
from dashpot.errors import ArgumentError, RunError
from dashpot.training.callback import Callback
from dashpot.training.side_pass import check_initialized, reshard, side_pass
from dashpot.training.state import weights
from dashpot.utils.schema import COUNT, MapOf, Record, Rule, SchemaError, TensorOf

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dashpot.training.learner import Learner

AVERAGES = "its averages"


class AveragedWeights(Callback):
    """Base class of `EMA` and `SWA`, which average each parameter and load the averages into the model for evaluation.

    The model contains the averages from `before_epoch` to `after_epoch` of the evaluation; training uses the
    optimizer's weights. A completed fit leaves the averages in the model if `keep` is True; a failed or cancelled fit
    leaves the optimizer's weights. Averages of half-precision parameters are float32. Subclasses call `update`.

    Args:
        keep: Whether the averages remain in the model after a completed fit.

    Attributes:
        count: Number of updates of the averages so far.
    """

    order: ClassVar[int] = 20
    state_schema: ClassVar[Rule] = Record(
        {"count": COUNT, "averages": MapOf(TensorOf()), "statistics": MapOf(TensorOf())}
    )

    def __init__(self, keep: bool) -> None:
        check(type(self).__name__, "keep", keep, FLAG)
        self.keep = keep
        self.count = 0
        self._backup: dict[str, Tensor] | None = None
        self._completed = False

    @property
    def ready(self) -> bool:
        """Whether any weights have been averaged."""
        return self.count > 0

    def weights(self) -> dict[str, Any]:
        """Return a state dict of the averaged model, with unsharded CPU tensors.

        With `strategy="fsdp"`, this method is a collective: every rank must call it.

        Raises:
            RunError: If no weights have been averaged yet.
        """
        if not self.ready:
            raise RunError(f"{type(self).__name__}: no weights have been averaged yet.")
        model = self._learner.model
        state = weights.model_state(model)
        averages = {id(value): self.averages[name] for name, value in self._tensors().items()}
        for name, value in model.state_dict(keep_vars=True).items():
            if id(value) in averages:
                state[name] = weights.cpu_copy(averages[id(value)]).to(value.dtype)
        return state | {name: weights.cpu_copy(value) for name, value in self.statistics.items()}

    # ---- events -----------------------------------------------------------------------------------------------------

    def before_fit(self, learner: Learner) -> None:
        others = [c for c in _averages(learner.loop.callbacks) if c is not self]
        if others:
            raise ArgumentError(
                f"Learner: callbacks must contain at most one weight average, got {type(self).__name__} and "
                f"{type(others[0]).__name__}."
            )
        check_initialized(learner.model, type(self).__name__)
        self._learner, self.count, self._completed, self.in_model = learner, 0, False, None
        self._params = {name: p for name, p in learner.model.named_parameters() if _is_averaged(p)}
        self._backup = None
        self.statistics: dict[str, Tensor] = {}
        self.averages = {name: _to_float32(value).clone() for name, value in self._tensors().items()}

    def before_epoch(self, learner: Learner) -> None:
        if not learner.training and self.ready:
            self._swap_in()

    def after_epoch(self, learner: Learner) -> None:
        self._swap_out()

    def cleanup_epoch(self, learner: Learner) -> None:
        self._swap_out()

    def after_fit(self, learner: Learner) -> None:
        self._completed = True

    def cleanup_fit(self, learner: Learner) -> None:
        self._swap_out()
        if self._completed and self.keep and self.ready:
            self._copy_to_model(self.averages)
            self._load_statistics()
            self.in_model = AVERAGES
        self._completed = False

    # ---- averages ---------------------------------------------------------------------------------------------------

    def update(self, share: float) -> None:
        """Update the averages: average <- average + share (weights - average)."""
        tensors = self._tensors()
        with torch.no_grad():
            averages = [_local(self.averages[name]) for name in tensors]
            new = [_local(_to_float32(value)) for value in tensors.values()]
            if averages:
                foreach_lerp_(averages, new, share)
        self.count += 1

    def _tensors(self) -> Mapping[str, Tensor]:
        """Return those tensors of the model that are averaged, by name."""
        return self._params

    def _swap_in(self) -> None:
        if self._backup is None:
            self._backup = {name: value.detach().clone() for name, value in self._tensors().items()}
            self._copy_to_model(self.averages)
            self.in_model = AVERAGES

    def _swap_out(self) -> None:
        if self._backup is not None:
            self._copy_to_model(self._backup)
            self._backup = self.in_model = None

    @torch.no_grad()
    def _copy_to_model(self, values: Mapping[str, Tensor]) -> None:
        if self._learner.engine.sharded:
            reshard(self._learner.model)
        tensors = self._tensors()
        if tensors:
            new = [_local(values[name]) for name in tensors]
            foreach_copy_([_local(value) for value in tensors.values()], new)

    def _load_statistics(self) -> None:
        """Load the batch norm statistics that belong to the averaged weights into the model."""

    # ---- state ------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count, "averages": dict(self.averages), "statistics": dict(self.statistics)}

    def check_state(self, state: Mapping[str, Any], path: str) -> None:
        super().check_state(state, path)
        if self.averages.keys() != state["averages"].keys():
            raise RunError(f"{type(self).__name__}: the checkpoint has averages of different parameters or buffers.")
        buffers = dict(self._learner.model.named_buffers())
        for kind, own in (("averages", self.averages), ("statistics", buffers)):
            for name, value in state[kind].items():
                if name not in own or (own[name].shape, own[name].dtype) != (value.shape, value.dtype):
                    raise SchemaError(f"{path}.{kind}.{name} must have the shape and dtype of the model's tensor")

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        saved = state["averages"]
        self.averages = {n: weights.shard_like(saved[n], own).to(own.device) for n, own in self.averages.items()}
        buffers = dict(self._learner.model.named_buffers())
        self.count = state["count"]
        self.statistics = {name: value.to(buffers[name].device) for name, value in state["statistics"].items()}


class EMA(AveragedWeights):
    """Exponential moving average of the weights, updated after every optimizer step.

    Let w_t be the weights after step t, w_0 the initial weights, and a_0 = w_0. Then

        a_t = d_t a_(t-1) + (1 - d_t) w_t,      d_t = decay, or min(decay, (1 + t) / (10 + t)) with `warmup`.

    Without warmup, a_t = decay^t w_0 + (1 - decay) sum_i decay^(t-i) w_i, which is dominated by the initial weights for
    many steps. With warmup, the average has a time constant of about t / 9 steps until `decay` limits it. Steps that
    the optimizer has skipped are not counted in t.

    The model contains the averages during evaluation and after the fit; see `AveragedWeights`. `weights()` returns the
    averages as a state dict at any time.

    Args:
        decay: Decay in [0, 1).
        warmup: Whether to use a smaller decay, and thus a shorter average, in the first steps.
        buffers: "copy" to combine the averages with the current buffers, such as batch norm statistics; "average" to
            average floating-point buffers like parameters.
        keep: Whether the averages remain in the model after a completed fit.

    Raises:
        ArgumentError: If an argument is out of range, or if another callback also averages the weights when the fit
            begins.

    Source: B. Polyak and A. Juditsky, Acceleration of stochastic approximation by averaging, 1992 (averaging);
    tf.train.ExponentialMovingAverage with `num_updates` (warmup).

    Example:
        >>> from dashpot import SGD, tasks
        >>> from dashpot.training import Engine, Learner
        >>> learner = Learner.of(tasks.get("digits").build(0), SGD, lr=0.1, engine=Engine("cpu"))
        >>> ema = EMA(decay=0.99)
        >>> learner.fit(2, callbacks=[ema])
        >>> ema.count, learner.history[-1]["eval"]["accuracy"] > 0.5
        (48, True)
    """

    def __init__(self, decay: float = 0.999, *, warmup: bool = True, buffers: str = "copy", keep: bool = True) -> None:
        super().__init__(keep)
        check("EMA", "decay", decay, POLE)
        check("EMA", "warmup", warmup, FLAG)
        check("EMA", "buffers", buffers, OneOf(("copy", "average")))
        self.decay, self.warmup, self.buffers = float(decay), warmup, buffers

    def settings(self) -> dict[str, Any]:
        return {"decay": self.decay, "warmup": self.warmup, "buffers": self.buffers}

    def decay_at(self, step: int) -> float:
        """Return d_t for step t, which counts from 1.

        >>> EMA(0.9).decay_at(1) == 2 / 11, EMA(0.9).decay_at(1000)
        (True, 0.9)
        """
        return min(self.decay, (1 + step) / (10 + step)) if self.warmup else self.decay

    def after_step(self, learner: Learner) -> None:
        self.update(1.0 - self.decay_at(self.count + 1))

    def _tensors(self) -> Mapping[str, Tensor]:
        if self.buffers == "copy":
            return self._params
        # The buffers are not cached, because modules may replace them.
        buffers = self._learner.model.named_buffers()
        return self._params | {name: value for name, value in buffers if _is_averaged(value)}


class SWA(AveragedWeights):
    """Stochastic weight averaging: the mean of the weights at the ends of epochs.

    After epoch `first_epoch` (counted from 0), and then after every `every` epochs, the average a is updated with the
    current weights w, where n is the number of previous updates:

        a <- a + (w - a) / (n + 1).

    After the first update, the model contains the average during evaluation and after the fit; see `AveragedWeights`.
    Batch norm statistics of the averaged weights are computed in a forward pass over the training data, which is run
    before the evaluation of a new average, or at the end of a fit without evaluation. This pass does not affect the
    training. Each rank uses its shard of the data, and the statistics are averaged over the ranks.

    The method assumes a high learning rate after `first_epoch`; choose the schedule accordingly.

    Args:
        first_epoch: First epoch after which the weights are averaged, an integer >= 0.
        every: Number of epochs between updates of the average, an integer >= 1.
        keep: Whether the average remains in the model after a completed fit.

    Raises:
        ArgumentError: If an argument is out of range, or if another callback also averages the weights when the fit
            begins, or if the fit ends before `first_epoch`.

    Source: P. Izmailov et al., Averaging weights leads to wider optima and better generalization, 2018, algorithm 1.

    Example:
        >>> from dashpot import SGD, tasks
        >>> from dashpot.training import Engine, Learner
        >>> learner = Learner.of(tasks.get("digits").build(0), SGD, lr=0.5, engine=Engine("cpu"))
        >>> swa = SWA(first_epoch=1)
        >>> learner.fit(4, callbacks=[swa])
        >>> swa.count
        3
    """

    def __init__(self, first_epoch: int, every: int = 1, *, keep: bool = True) -> None:
        super().__init__(keep)
        check("SWA", "first_epoch", first_epoch, Interval(0, math.inf, "left", integer=True))
        check("SWA", "every", every, Interval(1, math.inf, "left", integer=True))
        self.first_epoch, self.every = int(first_epoch), int(every)

    def settings(self) -> dict[str, Any]:
        return {"first_epoch": self.first_epoch, "every": self.every}

    def before_fit(self, learner: Learner) -> None:
        if self.first_epoch >= learner.epochs:
            raise ArgumentError(
                f"SWA: first_epoch must be below the number of epochs, {learner.epochs}, got {self.first_epoch}."
            )
        super().before_fit(learner)
        self._backup_buffers: dict[str, Tensor] = {}

    def after_epoch(self, learner: Learner) -> None:
        super().after_epoch(learner)
        since = learner.epoch - self.first_epoch
        complete = learner.training and learner.loop.cut_at is None
        if complete and since >= 0 and since % self.every == 0:
            self.update(1.0 / (self.count + 1))
            self.statistics = {}

    def after_fit(self, learner: Learner) -> None:
        super().after_fit(learner)
        if self.ready and not self.statistics:
            self._swap_in()  # computes the batch norm statistics
            self._swap_out()

    def _swap_in(self) -> None:
        if self._backup is not None:
            return
        super()._swap_in()
        norms = [m for m in self._learner.model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        names = {name for name, _ in _buffers_of(self._learner.model, norms)}
        self._backup_buffers = {n: b.clone() for n, b in self._learner.model.named_buffers() if n in names}
        if names and not self.statistics:
            _update_batchnorm(self._learner, norms)
            self.statistics = {n: b.clone() for n, b in self._learner.model.named_buffers() if n in names}
        self._load_statistics()

    def _swap_out(self) -> None:
        if self._backup is not None:
            super()._swap_out()
            _copy_buffers(self._learner.model, self._backup_buffers)

    def _load_statistics(self) -> None:
        _copy_buffers(self._learner.model, self.statistics)


def evaluated_weights(learner: Learner) -> dict[str, Any]:
    """Return a state dict of the weights used in evaluation (averages, if any), with unsharded CPU tensors."""
    for callback in _averages(learner.loop.callbacks):
        if callback.ready:
            return callback.weights()
    return weights.model_state(learner.model)


def unloaded_averages(learner: Learner) -> list[AveragedWeights]:
    """Return the callback of the running fit whose averages an evaluation would load into the model, if any."""
    if learner.loop.event == "before_fit":
        return []  # the callback may not have been reset yet; no step has been taken
    averages = _averages(learner.loop.callbacks)
    return [callback for callback in averages if callback.ready and callback.in_model is None]


def _averages(callbacks: Iterable[Callback]) -> list[AveragedWeights]:
    """Return the weight averages among callbacks, including those bound by `ForOptimizer`."""
    inner = (getattr(callback, "callback", callback) for callback in callbacks)
    return [callback for callback in inner if isinstance(callback, AveragedWeights)]


@contextmanager
def averages_in_model(learner: Learner) -> Iterator[None]:
    """Load the averages of the running fit into the model inside the block, as in an evaluation phase."""
    callbacks = unloaded_averages(learner)
    statistics = [callback.statistics for callback in callbacks]
    try:
        for callback in callbacks:
            callback._swap_in()
        yield
    finally:
        for callback, own in zip(callbacks, statistics, strict=True):
            callback._swap_out()
            callback.statistics = own  # the end of the fit may compute them from the batches of a different epoch


def _is_averaged(value: Tensor) -> bool:
    return value.is_floating_point() or value.is_complex()


def _to_float32(value: Tensor) -> Tensor:
    """Return `value` detached, and converted to float32 unless the dtype of `value` is wider."""
    return value.detach().to(torch.promote_types(value.dtype, torch.float32))


def _local(value: Tensor) -> Tensor:
    """Return the detached local shard of a DTensor; other tensors are only detached."""
    return local_tensor(value, value).detach()


# ---- batch norm statistics ------------------------------------------------------------------------------------------


def _buffers_of(model: nn.Module, norms: Iterable[nn.Module]) -> Iterator[tuple[str, Tensor]]:
    names = {id(b): name for name, b in model.named_buffers()}
    return ((names[id(b)], b) for norm in norms for b in norm.buffers(recurse=False))


def _update_batchnorm(learner: Learner, norms: Iterable[Any]) -> None:
    """Recompute the running statistics of the batch norm modules `norms` as means over the training data."""
    with side_pass(learner.train), _restored_momentum(norms), torch.no_grad():
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # torch then computes a cumulative mean
        learner.update_batchnorm(learner.train)
    if learner.engine.world_size > 1:
        for _, value in _buffers_of(learner.model, norms):
            if value.is_floating_point():
                dist.all_reduce(value)
                value /= learner.engine.world_size


@contextmanager
def _restored_momentum(norms: Iterable[Any]) -> Iterator[None]:
    momenta = [(norm, norm.momentum) for norm in norms]
    try:
        yield
    finally:
        for norm, momentum in momenta:
            norm.momentum = momentum


@torch.no_grad()
def _copy_buffers(model: nn.Module, values: Mapping[str, Tensor]) -> None:
    buffers = dict(model.named_buffers())
    for name, value in values.items():
        buffers[name].copy_(value)
