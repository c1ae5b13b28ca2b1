"""Training a problem: the learner's loop, told epoch by epoch."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from dashpot.constraints import Interval, check
from dashpot.errors import ArgumentError
from dashpot.runs.records import Divergence, Epoch
from dashpot.tasks import Problem
from dashpot.tasks.means import FLUSH
from dashpot.training.callback import Callback, CancelFit
from dashpot.training.distributed.single_device import SingleDevice
from dashpot.training.learner import Learner
from dashpot.training.stopwatch import Stopwatch

__all__ = ["Epochs", "current_lr", "learner_in_place", "train"]

COUNT = Interval(0, math.inf, "left", integer=True)


def current_lr(optimizer: Optimizer) -> float:
    """The learning rate of the first group that the next step will use, its schedule included.

    >>> import torch
    >>> current_lr(torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.5))
    0.5
    """
    scheduled = getattr(optimizer, "current_lr", None)
    return float(optimizer.param_groups[0]["lr"] if scheduled is None else scheduled())


class Epochs(Callback):
    """Measures every epoch, and ends the fit where a loss is not finite.

    Args:
        on_step: called after every step with the number of steps done.
        on_epoch: called with each `Epoch` once it is evaluated.

    `epochs` holds those of the fit.
    """

    order = 100  # what it tells of a step comes after what everything else does with it

    def __init__(
        self, on_step: Callable[[int], None] | None = None, on_epoch: Callable[[Epoch], None] | None = None
    ) -> None:
        self.on_step, self.on_epoch = on_step, on_epoch
        self.epochs: list[Epoch] = []

    def before_fit(self, learner: Learner) -> None:
        """Begin with nothing; a state that is gone on from comes after this."""
        self.epochs = []
        self._begin()

    def _begin(self) -> None:
        """Begin an epoch."""
        self._losses: list[float] = []
        self._lrs: list[float] = []
        self._sizes: list[int] = []
        self._waiting: list[Tensor] = []
        self._watch = Stopwatch()

    def before_epoch(self, learner: Learner) -> None:
        """Start the clock of the training phase."""
        if learner.training:
            self._watch.start()

    def before_batch(self, learner: Learner) -> None:
        """Note the rate that the step is about to use."""
        if learner.training:
            self._lrs.append(current_lr(learner.opt))

    def after_batch(self, learner: Learner) -> None:
        """Take in the step's loss."""
        if not learner.training:
            return
        self._waiting.append(learner.batch.loss.detach())
        self._sizes.append(learner.batch.size)
        if len(self._waiting) == FLUSH:
            self._flush()
        if self.on_step is not None:
            self.on_step(learner.epoch * len(learner.train) + learner.batch.index + 1)
        if self._diverged:
            self._stop(learner)

    def after_epoch(self, learner: Learner) -> None:
        """Read what waits, and tell the epoch once it is evaluated."""
        if learner.training:
            self._flush()
            self._watch.stop()
            if self._diverged:
                self._stop(learner)
        if not learner.training or not learner.loop.phases["eval"]:
            means = learner.history[learner.epoch]
            # The mean loss is taken from the losses as they were recorded, without another rounding.
            total = math.fsum(loss * size for loss, size in zip(self._losses, self._sizes, strict=True))
            trained = {**means["train"], "loss": total / sum(self._sizes)}
            self._tell(self._epoch(learner, train=trained, evaluation=means.get("eval", {})))

    def _flush(self) -> None:
        """Read the waiting losses, all at once, as far as they are finite and one more."""
        fresh = torch.stack(self._waiting).tolist() if self._waiting else []
        self._waiting.clear()
        bad = next((i for i, loss in enumerate(fresh) if not math.isfinite(loss)), len(fresh))
        self._losses += fresh[: bad + 1]

    @property
    def _diverged(self) -> bool:
        return bool(self._losses) and not math.isfinite(self._losses[-1])

    def _epoch(self, learner: Learner, **measured: Any) -> Epoch:
        """The epoch as far as it went."""
        (cpu, wall), done = self._watch.seconds, len(self._losses)
        steps = learner.epoch * len(learner.train) + done
        means = {"train": {}, "evaluation": {}, **measured}
        return Epoch(learner.epoch + 1, steps, loss=self._losses, lr=self._lrs[:done], cpu_s=cpu, wall_s=wall, **means)

    def _stop(self, learner: Learner) -> None:
        """Tell the epoch that diverged, and end the fit."""
        label = "nan" if math.isnan(self._losses[-1]) else "inf"
        step = learner.epoch * len(learner.train) + len(self._losses) - 1
        self._tell(self._epoch(learner, diverged=Divergence(step, label)))
        raise CancelFit

    def _tell(self, epoch: Epoch) -> None:
        self.epochs.append(epoch)
        self._begin()
        if self.on_epoch is not None:
            self.on_epoch(epoch)

    def state_dict(self) -> dict[str, Any]:
        """What is known of an epoch that is not over; those that are over have been told."""
        self._flush()
        lists = {"losses": list(self._losses), "lrs": list(self._lrs), "sizes": list(self._sizes)}
        return {**lists, "spent": list(self._watch.seconds)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with that epoch."""
        self._losses, self._lrs, self._sizes = (list(state[name]) for name in ("losses", "lrs", "sizes"))
        self._watch = Stopwatch(state["spent"])


class _From(Callback):
    """Begins with a later epoch."""

    def __init__(self, first: int) -> None:
        self.first = first

    def before_fit(self, learner: Learner) -> None:
        learner.loop.position, learner.steps = (self.first, 0), self.first * len(learner.train)
        learner.history = [{} for _ in range(self.first)]


def learner_in_place(problem: Problem, optimizer: Optimizer) -> Learner:
    """A learner of `problem` that computes where its model is, in this process alone."""
    device = next(p for group in optimizer.param_groups for p in group["params"]).device
    return Learner.of(problem, optimizer, engine=SingleDevice(device))


def train(
    problem: Problem,
    optimizer: Optimizer,
    epochs: int,
    *,
    first: int = 0,
    on_step: Callable[[int], None] | None = None,
    on_epoch: Callable[[Epoch], None] | None = None,
) -> list[Epoch]:
    """Train `problem.model` in place and evaluate it after every epoch.

    It is a fit of `Learner` with nothing added. A loss that is not finite ends the run: the last `Epoch` then carries
    `diverged`, and its steps end with that loss. It may be noticed up to `means.FLUSH` steps late, because losses are
    read from the device that many at a time.

    Args:
        problem: model, batches, loss and metrics.
        optimizer: any `torch.optim.Optimizer` over the model's parameters.
        epochs: epochs in all, at least 1.
        first: epochs already done, for a run that goes on; batches are drawn for the epochs from here on.
        on_step: called after every step with the number of steps done.
        on_epoch: called with each `Epoch` once it is evaluated.

    Returns:
        The epochs trained by this call.

    Raises:
        ArgumentError: `epochs` or `first` is out of range.

    >>> import torch
    >>> from dashpot import tasks
    >>> problem = tasks.get("digits").build(0)
    >>> [epoch] = train(problem, torch.optim.Adam(problem.model.parameters(), lr=0.01), epochs=1)
    >>> epoch.steps == len(problem.train), sorted(epoch.evaluation)
    (True, ['accuracy', 'loss'])
    """
    check("train", "epochs", epochs, Interval(1, math.inf, "left", integer=True))
    check("train", "first", first, COUNT)
    if first > epochs:
        raise ArgumentError(f"train: first must be at most epochs = {epochs}, got {first}.")
    told = Epochs(on_step, on_epoch)
    learner_in_place(problem, optimizer).fit(epochs, callbacks=[told, _From(first)])
    problem.model.train()
    return told.epochs
