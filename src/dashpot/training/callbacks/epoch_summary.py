"""What one epoch amounts to, gathered for callbacks that tell or write it down."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from dashpot.schedules import resolve
from dashpot.training.callback import Callback
from dashpot.training.loop import current_lr
from dashpot.training.stopwatch import Stopwatch

if TYPE_CHECKING:
    from dashpot.training.learner import Learner

__all__ = ["EpochCallback", "EpochSummary"]


@dataclass(frozen=True)
class EpochSummary:
    """One epoch: its number from 1, the steps taken until its end, the means of its phases, the learning rate that its
    last step used, and its seconds, evaluation included. A phase that did not run is empty."""

    number: int
    steps: int
    train: dict[str, float]
    evaluation: dict[str, float]
    lr: float | None = None
    seconds: float | None = None


class EpochCallback(Callback):
    """Base of callbacks that do something with each finished epoch: define `on_epoch_summary(learner, summary)`.

    It is called once an epoch, by every process, in `after_epoch` of the last phase: before callbacks of a higher order
    look at it, such as those that save. After a phase that was cut short by `CancelEpoch` it comes with the cleanup.
    The seconds of an epoch go on through a resume; work that had to be done twice counts once.
    """

    def on_epoch_summary(self, learner: Learner, summary: EpochSummary) -> None:
        """One epoch is over."""
        raise NotImplementedError

    def before_fit(self, learner: Learner) -> None:
        """Start anew; a resume loads its state after this."""
        self._step_lr: tuple[Any, float] | None = None
        self._stopwatch = Stopwatch()
        self._last_reported = -1  # the last epoch that was

    def before_epoch(self, learner: Learner) -> None:
        """Start the clock with the first phase of an epoch."""
        if not self._stopwatch.running:
            self._stopwatch.start()

    def step(self, learner: Learner, proceed: Callable[[], None]) -> None:
        """Keep the rate of a step that is taken, read before it."""
        lr = _next_lr(learner.opt)
        try:
            proceed()
        finally:  # a callback may cancel the batch once the step is taken, which then counts all the same
            if learner.batch.stepped:
                self._step_lr = lr

    def after_epoch(self, learner: Learner) -> None:
        """Tell the epoch if this was its last phase."""
        if learner.loop.phase == ("eval" if learner.loop.phases["eval"] else "train"):
            self._report(learner)

    def cleanup_epoch(self, learner: Learner) -> None:
        """Tell the epoch where its last phase was cut short on purpose, not where it fails."""
        if self._last_reported != learner.epoch and learner.loop.unwinding is None:
            self.after_epoch(learner)

    def _report(self, learner: Learner) -> None:
        means = learner.history[learner.epoch]
        summary = EpochSummary(
            learner.epoch + 1,
            learner.steps,
            dict(means.get("train", {})),
            dict(means.get("eval", {})),
            self._lr() if learner.loop.phases["train"] else None,
            self._stopwatch.seconds[1],
        )
        self._step_lr, self._stopwatch, self._last_reported = None, Stopwatch(), learner.epoch
        self.on_epoch_summary(learner, summary)

    def _lr(self) -> float | None:
        """The rate of the last step taken in this epoch; a device that holds it is waited for here."""
        return None if self._step_lr is None else float(self._step_lr[0]) * self._step_lr[1]

    def state_dict(self) -> dict[str, Any]:
        """The unfinished epoch's part."""
        return {"lr": self._lr(), "seconds": self._stopwatch.seconds[1]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with that epoch."""
        self._step_lr = None if state["lr"] is None else (state["lr"], 1.0)
        self._stopwatch = Stopwatch((0.0, state["seconds"]))


def _next_lr(opt: Any) -> tuple[Any, float]:
    """The rate of the coming step as (base rate, factor on it).

    A base rate that is a tensor is copied and not read, so that no step waits for a device.
    """
    lr, factor = opt.param_groups[0]["lr"], 1.0
    if not isinstance(lr, Tensor):
        return current_lr(opt), factor
    if hasattr(opt, "current_lr"):  # one of ours, which may have a schedule of its own
        factor, lr = resolve.lr_in_force(opt.schedule.get("lr"), lr, opt.steps_done())
    return (lr.detach().clone() if isinstance(lr, Tensor) else lr), factor
