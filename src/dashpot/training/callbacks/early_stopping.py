"""Ending a fit that no longer gets better."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

from dashpot.constraints import FLAG, NONNEGATIVE, Interval, OneOf, check, unknown
from dashpot.training.callback import Callback
from dashpot.training.callbacks.average import evaluated_weights
from dashpot.training.state import weights

if TYPE_CHECKING:
    from dashpot.training.learner import Learner

__all__ = ["EarlyStopping"]


class EarlyStopping(Callback):
    """Ends the fit after an epoch when `metric` has not become better for `patience` epochs in a row.

    Better means below (mode "min") or above ("max") the best value so far by more than `min_delta`; nan never is. The
    epoch is finished as any other, so that it is in tables, logs and checkpoints, `learner.stop_reason` says why the
    fit ends, and `after_fit` is told. A fit that resumes after that ends at once, unless it is given more patience.

    Args:
        metric: "loss" or the name of a metric.
        phase: "eval" or "train"; training measures while the weights change.
        patience: epochs without a better value that are one too many, an integer >= 1.
        min_delta: at least 0.
        mode: "min" or "max".
        restore_best: put the weights of the best epoch into the model when the fit ends, early or after its last epoch:
            the averaged ones, where a callback averages them (`EMA`, `SWA`). They are kept in the state, and so in
            every checkpoint. A fit that fails or is cancelled leaves the model as it is.

    Raises:
        ArgumentError: an argument is out of range, or, when the fit begins, the learner has no such metric or phase.

    >>> from dashpot import AdamW, tasks
    >>> from dashpot.training import Engine, Learner
    >>> learner = Learner.of(tasks.get("digits").build(0), AdamW, lr=0.0, engine=Engine("cpu"))
    >>> learner.fit(100, callbacks=[EarlyStopping(patience=2)])
    >>> learner.stop_reason
    'the loss of eval has not become better than 2... for 2 epochs'
    >>> len(learner.history)
    3
    """

    order: ClassVar[int] = 80

    def __init__(
        self,
        metric: str = "loss",
        phase: str = "eval",
        patience: int = 3,
        min_delta: float = 0.0,
        mode: str = "min",
        restore_best: bool = False,
    ) -> None:
        check("EarlyStopping", "metric", metric, _METRIC_NAME)
        check("EarlyStopping", "phase", phase, OneOf(("train", "eval")))
        check("EarlyStopping", "patience", patience, Interval(1, math.inf, "left", integer=True))
        check("EarlyStopping", "min_delta", min_delta, NONNEGATIVE)
        check("EarlyStopping", "mode", mode, OneOf(("min", "max")))
        check("EarlyStopping", "restore_best", restore_best, FLAG)
        self.metric, self.phase, self.patience, self.min_delta = metric, phase, int(patience), float(min_delta)
        self.mode, self.restore_best = mode, restore_best
        self._reset()

    def _reset(self) -> None:
        self.best: float | None = None
        """The best value so far."""
        self.best_epoch: int | None = None
        """Its epoch, from 0."""
        self.waited = 0
        """Epochs since then."""
        self._weights: dict[str, Tensor] | None = None
        self._completed, self.in_model = False, None

    def settings(self) -> dict[str, Any]:
        return {"metric": self.metric, "phase": self.phase, "mode": self.mode, "min_delta": self.min_delta}

    def before_fit(self, learner: Learner) -> None:
        if self.metric not in ("loss", *learner.metrics):
            raise unknown("metric", self.metric, ["loss", *learner.metrics])
        if not learner.loop.phases[self.phase]:
            raise unknown("phase", self.phase, [phase for phase, runs in learner.loop.phases.items() if runs])
        self._learner = learner
        self._reset()

    def after_epoch(self, learner: Learner) -> None:
        if learner.loop.phase != self.phase:
            return
        value = learner.history[learner.epoch][self.phase][self.metric]
        if self._is_better(value):
            self.best, self.best_epoch, self.waited = value, learner.epoch, 0
            if self.restore_best:
                self._weights = evaluated_weights(learner)
        else:
            self.waited += 1
            self._stop_if_exhausted()

    def _is_better(self, value: float) -> bool:
        if self.best is None:
            return not math.isnan(value)
        gain = self.best - value if self.mode == "min" else value - self.best
        return gain > self.min_delta

    def _stop_if_exhausted(self) -> None:
        if self.waited >= self.patience:
            than = "" if self.best is None else f" than {self.best:.4g}"
            self._learner.stop_reason = (
                f"the {self.metric} of {self.phase} has not become better{than} for {self.waited} epochs"
            )

    def after_fit(self, learner: Learner) -> None:
        self._completed = True

    def cleanup_fit(self, learner: Learner) -> None:
        if self._completed and self._weights is not None:
            weights.load_model(learner.model, self._weights)
            self.in_model = f"the weights of epoch {(self.best_epoch or 0) + 1}"
        self._completed = False

    def state_dict(self) -> dict[str, Any]:
        found = {"best": self.best, "best_epoch": self.best_epoch, "waited": self.waited, "weights": self._weights}
        return {**found, "measured": self.settings()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state["measured"] != self.settings():  # values of something else say nothing here
            return
        self.best, self.best_epoch, self.waited = state["best"], state["best_epoch"], state["waited"]
        self._weights = state["weights"] if self.restore_best else None
        self._stop_if_exhausted()


class _MetricName:
    """A constraint: any text."""

    def __str__(self) -> str:
        return "the name of a metric"

    def allows(self, value: Any) -> bool:
        return isinstance(value, str)

    def refused(self) -> list[Any]:
        return [None, 3]


_METRIC_NAME = _MetricName()
