"""Training of a problem with any optimizer, and measurements of each epoch."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from dashpot.constraints import check
from dashpot.runs.records import Divergence, Epoch
from dashpot.tasks import Problem
from dashpot.tasks.running_means import SYNC_INTERVAL
from dashpot.training import intervals
from dashpot.training.callback import Callback, CancelFit
from dashpot.training.distributed.single_device import SingleDevice
from dashpot.training.error_hints import check_parameters
from dashpot.training.learner import Learner
from dashpot.training.optimizer_dict import OptimizerDict
from dashpot.training.plain_optimizer import OptimizerFactory, SupportsStep
from dashpot.training.stopwatch import Stopwatch
from dashpot.utils.scalars import read_all
from dashpot.utils.schema import COUNT, REAL, SECONDS, ListOf, Record, Row, Rule, SchemaError


def current_lr(optimizer: Optimizer) -> float:
    """Return the learning rate of the first parameter group in the next step, including the effect of a schedule.

    Of several optimizers, the rate of the first is returned.

    The result is NaN for an optimizer without a known learning rate.

    >>> import torch
    >>> current_lr(torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.5))
    0.5
    """
    if isinstance(optimizer, OptimizerDict):
        optimizer = next(iter(optimizer.values()))
    scheduled = getattr(optimizer, "current_lr", None)
    return float(optimizer.param_groups[0].get("lr", math.nan) if scheduled is None else scheduled())


class EpochStats(Callback):
    """Callback that measures every epoch, and ends the fit at a non-finite loss.

    Args:
        on_step: Function that is called after every step with the number of steps taken.
        on_epoch: Function that is called with each `Epoch` after its evaluation.

    Attributes:
        epochs: Measurements of the epochs of the fit, including a diverged epoch.
    """

    order = 100  # on_step runs after all other callbacks

    def __init__(
        self, on_step: Callable[[int], None] | None = None, on_epoch: Callable[[Epoch], None] | None = None
    ) -> None:
        self.on_step, self.on_epoch = on_step, on_epoch
        self.epochs: list[Epoch] = []

    def before_fit(self, learner: Learner) -> None:
        """Reset all measurements; in a resumed fit, `load_state_dict` is called afterwards."""
        self.epochs, self._steps_before = [], 0
        self._start_epoch()

    def _start_epoch(self) -> None:
        self._losses: list[float] = []
        self._lrs: list[float] = []
        self._sizes: list[Any] = []  # numbers of examples or other counts, as tensors until the next flush
        self._pending: list[Tensor] = []  # losses not yet read from the device
        self._stopwatch = Stopwatch()

    def before_epoch(self, learner: Learner) -> None:
        """Start timing the training phase."""
        if learner.training:
            self._stopwatch.start()
            before = learner.loop.plan.batches_before(learner.epoch)
            self._steps_before = (self.epochs[-1].steps if self.epochs else 0) if before is None else before

    def before_batch(self, learner: Learner) -> None:
        """Record the learning rate of the step."""
        if learner.training:
            self._lrs.append(current_lr(learner.opt))

    def after_batch(self, learner: Learner) -> None:
        """Record the loss of the step."""
        if not learner.training:
            return
        self._pending.append(learner.batch.loss.detach())
        self._sizes.append(learner.batch.count)
        if len(self._pending) == SYNC_INTERVAL:
            self._flush()
        if self.on_step is not None:
            self.on_step(self._steps_before + learner.batch.index + 1)
        if self._diverged:
            self._stop(learner)

    def after_epoch(self, learner: Learner) -> None:
        """Read the pending losses, and emit the `Epoch` after the last phase."""
        if learner.training:
            self._flush()
            self._stopwatch.stop()
            if self._diverged:
                self._stop(learner)
        if not learner.training or not learner.loop.phases["eval"]:
            means = learner.history[learner.epoch]
            # This is the mean of the recorded losses, without additional rounding.
            total = math.fsum(loss * size for loss, size in zip(self._losses, self._sizes, strict=True) if size)
            size = math.fsum(self._sizes)
            trained = {**means["train"], "loss": total / size if size else math.nan}
            self._emit(self._epoch(learner, train=trained, evaluation=means.get("eval", {})))

    def _flush(self) -> None:
        """Read the pending losses from the device, up to the first non-finite one."""
        losses = torch.stack(self._pending).tolist() if self._pending else []
        self._pending.clear()
        self._sizes = read_all(self._sizes)
        bad = next((i for i, loss in enumerate(losses) if not math.isfinite(loss)), len(losses))
        self._losses += losses[: bad + 1]

    @property
    def _diverged(self) -> bool:
        return bool(self._losses) and not math.isfinite(self._losses[-1])

    def _epoch(self, learner: Learner, **measured: Any) -> Epoch:
        (cpu, wall), done = self._stopwatch.seconds, len(self._losses)
        steps = self._steps_before + done
        means = {"train": {}, "evaluation": {}, **measured}
        return Epoch(learner.epoch + 1, steps, loss=self._losses, lr=self._lrs[:done], cpu_s=cpu, wall_s=wall, **means)

    def _stop(self, learner: Learner) -> None:
        """Emit the diverged epoch, and end the fit."""
        label = "nan" if math.isnan(self._losses[-1]) else "inf"
        step = self._steps_before + len(self._losses) - 1
        self._emit(self._epoch(learner, diverged=Divergence(step, label)))
        raise CancelFit

    def _emit(self, epoch: Epoch) -> None:
        self.epochs.append(epoch)
        self._start_epoch()
        if self.on_epoch is not None:
            self.on_epoch(epoch)

    state_schema: ClassVar[Rule] = Record(
        {
            "losses": ListOf(REAL),
            "lrs": ListOf(REAL),
            "sizes": ListOf(COUNT),
            "spent": Row((SECONDS, SECONDS)),
        }
    )

    def state_dict(self) -> dict[str, Any]:
        """Return the measurements of the unfinished epoch; finished epochs have already been emitted."""
        self._flush()
        lists = {"losses": list(self._losses), "lrs": list(self._lrs), "sizes": list(self._sizes)}
        return {**lists, "spent": list(self._stopwatch.seconds)}

    def check_state(self, state: Mapping[str, Any], path: str) -> None:
        super().check_state(state, path)
        lengths = {len(state[name]) for name in ("losses", "lrs", "sizes")}
        if len(lengths) > 1:
            raise SchemaError(f"{path}: losses, lrs and sizes must have the same length")

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the measurements of the unfinished epoch."""
        self._losses, self._lrs, self._sizes = (list(state[name]) for name in ("losses", "lrs", "sizes"))
        self._stopwatch = Stopwatch(state["spent"])


def single_device_learner(problem: Problem, optimizer: Any) -> Learner:
    """Return a learner for `problem` on the current device of its model, in this process only."""
    check_parameters(problem.model)
    return Learner.of(problem, optimizer, engine=SingleDevice(next(problem.model.parameters()).device))


def train(
    problem: Problem,
    optimizer: OptimizerFactory | SupportsStep | Mapping[str, Any],
    epochs: int,
    *,
    on_step: Callable[[int], None] | None = None,
    on_epoch: Callable[[Epoch], None] | None = None,
) -> list[Epoch]:
    """Train `problem.model` in place and evaluate it after every epoch.

    The training is a fit of `Learner` on the model's device. It ends at a non-finite loss: the last `Epoch` then has
    `diverged` set, and the recorded losses of this epoch end with the non-finite loss. Losses are read from the device
    every `SYNC_INTERVAL` steps, so up to `SYNC_INTERVAL` steps may have been taken after the step with that loss.

    Args:
        problem: Problem with the model, batches, loss and metrics.
        optimizer: An optimizer over the model's parameters or a factory, as for `Learner`.
        epochs: Number of epochs, an integer >= 1.
        on_step: Function that is called after every step with the number of steps taken.
        on_epoch: Function that is called with each `Epoch` after its evaluation.

    Returns:
        The measurements of each epoch.

    Raises:
        ArgumentError: If `epochs` is out of range.

    Example:
        >>> import torch
        >>> from dashpot import tasks
        >>> problem = tasks.get("digits").build(0)
        >>> [epoch] = train(problem, torch.optim.Adam(problem.model.parameters(), lr=0.01), epochs=1)
        >>> epoch.steps == len(problem.train), sorted(epoch.evaluation)
        (True, ['accuracy', 'loss'])
    """
    check("train", "epochs", epochs, intervals.COUNT)
    stats = EpochStats(on_step, on_epoch)
    single_device_learner(problem, optimizer).fit(epochs, callbacks=[stats])
    problem.model.train()
    return stats.epochs
