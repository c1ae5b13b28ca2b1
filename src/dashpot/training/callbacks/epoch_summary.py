"""Summary of an epoch for callbacks that display or log it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

from dashpot.schedules import resolve
from dashpot.training.callback import Callback
from dashpot.training.loop import current_lr
from dashpot.training.stopwatch import Stopwatch
from dashpot.utils.schema import REAL, SECONDS, Maybe, Record, Rule

if TYPE_CHECKING:
    from dashpot.training.learner import Learner


@dataclass(frozen=True)
class EpochSummary:
    """Summary of an epoch.

    Attributes:
        number: Number of the epoch, from 1.
        steps: Number of optimizer steps from the start of the run to the end of the epoch.
        train: Means of the loss and metrics in the training phase; empty if the phase did not run. With several
            optimizers, also the learning rate of each in the last step, with the name `lr_NAME`.
        evaluation: Means of the loss and metrics in the evaluation phase; empty if the phase did not run.
        lr: Learning rate of the last step of the epoch, or None if unknown. Of several optimizers, that of the first.
        seconds: Wall time of the epoch in seconds, including evaluation, or None if unknown.
    """

    number: int
    steps: int
    train: dict[str, float]
    evaluation: dict[str, float]
    lr: float | None = None
    seconds: float | None = None

    @property
    def phases(self) -> dict[str, dict[str, float]]:
        """Means of the loss and metrics in each phase, with the keys "train" and "eval"."""
        return {"train": self.train, "eval": self.evaluation}


class EpochCallback(Callback):
    """Base class of callbacks with a hook `on_epoch_summary(learner, summary)`, called after each epoch.

    The hook is called once per epoch on every rank, in `after_epoch` of the last phase, or in `cleanup_epoch` if
    `CancelEpoch` has ended that phase. The time of a resumed epoch includes the time spent on it before the checkpoint.
    """

    state_schema: ClassVar[Rule] = Record({"lr": Maybe(REAL), "seconds": SECONDS})

    def on_epoch_summary(self, learner: Learner, summary: EpochSummary) -> None:
        """Handle the summary of a finished epoch."""
        raise NotImplementedError

    def before_fit(self, learner: Learner) -> None:
        self._step_lrs: dict[str, tuple[Any, float] | None] = {}  # by name of the optimizer; "" for a single one
        self._stopwatch = Stopwatch()
        self._last_reported = -1  # index of the last reported epoch

    def before_epoch(self, learner: Learner) -> None:
        if not self._stopwatch.running:
            self._stopwatch.start()

    def step(self, learner: Learner, proceed: Callable[[], None]) -> None:
        """Record the learning rate of the step."""
        lr = _next_lr(learner.opt)
        try:
            proceed()
        finally:  # a callback may cancel the batch after the optimizer has stepped
            if learner.batch.stepped:
                self._step_lrs[learner.loop.part or ""] = lr

    def after_epoch(self, learner: Learner) -> None:
        """Report the epoch after its last phase."""
        if learner.loop.phase == ("eval" if learner.loop.phases["eval"] else "train"):
            self._report(learner)

    def cleanup_epoch(self, learner: Learner) -> None:
        """Report the epoch if its last phase was cancelled, but not if the phase failed."""
        if self._last_reported != learner.epoch and learner.loop.unwinding is None:
            self.after_epoch(learner)

    def _report(self, learner: Learner) -> None:
        means = learner.history[learner.epoch]
        summary = EpochSummary(
            learner.epoch + 1,
            learner.steps,
            {**means.get("train", {}), **self._named_lrs()},
            dict(means.get("eval", {})),
            self._lr() if learner.loop.phases["train"] else None,
            self._stopwatch.seconds[1],
        )
        self._step_lrs, self._stopwatch, self._last_reported = {}, Stopwatch(), learner.epoch
        self.on_epoch_summary(learner, summary)

    def _lr(self) -> float | None:
        """Return the learning rate of the last step of this epoch, with a host sync if the rate is on a device."""
        return next((_read_lr(lr) for lr in self._step_lrs.values()), None)

    def _named_lrs(self) -> dict[str, float]:
        """Return the learning rate of each of several optimizers."""
        return {f"lr_{name}": _read_lr(lr) for name, lr in self._step_lrs.items() if name and lr is not None}

    def state_dict(self) -> dict[str, Any]:
        """Return the learning rate and the time of the unfinished epoch."""
        lrs = {name: _read_lr(lr) for name, lr in self._step_lrs.items() if name}
        return {"lr": self._lr(), "seconds": self._stopwatch.seconds[1], **({"lrs": lrs} if lrs else {})}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the learning rate and the time of the unfinished epoch."""
        lrs = state.get("lrs", {} if state["lr"] is None else {"": state["lr"]})
        self._step_lrs = {name: None if lr is None else (lr, 1.0) for name, lr in lrs.items()}
        self._stopwatch = Stopwatch((0.0, state["seconds"]))


def _read_lr(lr: tuple[Any, float] | None) -> Any:
    return None if lr is None else float(lr[0]) * lr[1]


def _next_lr(opt: Any) -> tuple[Any, float] | None:
    """Return the learning rate of the next step as (base learning rate, factor), or None if it is unknown.

    If the base learning rate is a tensor, the tensor is cloned instead of read, to avoid a host sync.
    """
    lr, factor = opt.param_groups[0].get("lr"), 1.0
    if lr is None:
        return None
    if not isinstance(lr, Tensor):
        return current_lr(opt), factor
    if hasattr(opt, "current_lr"):  # a dashpot optimizer, possibly with its own schedule
        factor, lr = resolve.lr_in_force(opt.schedule.get("lr"), lr, opt.steps_done())
    return (lr.detach().clone() if isinstance(lr, Tensor) else lr), factor
