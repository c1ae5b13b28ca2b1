"""What one epoch amounts to, gathered for callbacks that tell or write it down."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dashpot.training.callback import Callback
from dashpot.training.loop import lr_in_force
from dashpot.training.stopwatch import Stopwatch

if TYPE_CHECKING:
    from dashpot.training.learner import Learner

__all__ = ["PerEpoch", "Row"]


@dataclass(frozen=True)
class Row:
    """One epoch: its number from 1, the steps taken until its end, the means of its phases, the learning rate that its
    last step used, and its seconds, evaluation included. A phase that did not run is empty."""

    number: int
    steps: int
    train: dict[str, float]
    evaluation: dict[str, float]
    lr: float | None = None
    seconds: float | None = None


class PerEpoch(Callback):
    """Base of callbacks that do something with each finished epoch: define `row(learner, row)`.

    It is called once an epoch, by every process, in `after_epoch` of the last phase: before callbacks of a higher order
    look at it, such as those that save. After a phase that was cut short by `CancelEpoch` it comes with the cleanup.
    The seconds of an epoch go on through a resume; work that had to be done twice counts once.
    """

    def row(self, learner: Learner, row: Row) -> None:
        """One epoch is over."""
        raise NotImplementedError

    def before_fit(self, learner: Learner) -> None:
        """Start anew; a resume loads its state after this."""
        self._lr: float | None = None
        self._watch = Stopwatch()

    def before_epoch(self, learner: Learner) -> None:
        """Start the clock with the first phase of an epoch."""
        if not self._watch.runs:
            self._watch.start()

    def step(self, learner: Learner, proceed: Callable[[], None]) -> None:
        """Read the rate of an epoch's last step, before that step."""
        if learner.batch + 1 == len(learner.feed):
            self._lr = lr_in_force(learner.opt)
        proceed()

    def after_epoch(self, learner: Learner) -> None:
        """Tell the epoch if this was its last phase."""
        if learner.phase == ("eval" if learner.phases["eval"] else "train"):
            self._finish(learner)

    def cleanup_epoch(self, learner: Learner) -> None:
        """Tell the epoch where its last phase was cut short on purpose, not where it fails."""
        if self._watch.runs and learner.leaving is None:
            self.after_epoch(learner)

    def _finish(self, learner: Learner) -> None:
        means = learner.history[learner.epoch]
        row = Row(
            learner.epoch + 1,
            learner.steps,
            dict(means.get("train", {})),
            dict(means.get("eval", {})),
            self._lr if learner.phases["train"] else None,
            self._watch.seconds[1],
        )
        self._lr, self._watch = None, Stopwatch()
        self.row(learner, row)

    def state_dict(self) -> dict[str, Any]:
        """The unfinished epoch's part."""
        return {"lr": self._lr, "seconds": self._watch.seconds[1]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with that epoch."""
        self._lr, self._watch = state["lr"], Stopwatch((0.0, state["seconds"]))
