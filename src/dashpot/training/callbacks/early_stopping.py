"""Early stopping."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

from dashpot.constraints import FLAG, NONNEGATIVE, Interval, OneOf, check, shown, unknown
from dashpot.errors import ArgumentError
from dashpot.training.callback import Callback
from dashpot.training.callbacks.average import evaluated_weights
from dashpot.training.state import weights
from dashpot.utils.schema import COUNT, PLAIN, REAL, TEXT, MapOf, Maybe, Record, Rule, SchemaError

if TYPE_CHECKING:
    from dashpot.training.learner import Learner


PHASE, MODE = OneOf(("train", "eval")), OneOf(("min", "max"))


class EarlyStopping(Callback):
    """Early stopping after `patience` consecutive epochs without an improvement of `metric`.

    In a fit with `steps` or `evaluate_every`, an epoch is an interval between two evaluations.

    A value is an improvement if it is below (mode "min") or above (mode "max") the best value by more than `min_delta`;
    NaN is never an improvement. The last epoch is completed, logged and saved as usual, `learner.stop_reason` is set,
    and `after_fit` is called. If a fit that was stopped early is resumed, the resumed fit ends immediately unless
    `patience` has been increased.

    Args:
        metric: "loss" or the name of a metric.
        phase: "eval" or "train". Training metrics are means over the epoch, measured while the weights change.
        patience: Number of consecutive epochs without improvement after which the fit stops, an integer >= 1.
        min_delta: Minimum change that counts as an improvement, >= 0.
        mode: Whether lower values ("min") or higher values ("max") of the metric are better.
        restore_best: Whether to load the weights of the best epoch into the model at the end of the fit. If a callback
            averages the weights (`EMA`, `SWA`), the averages are loaded instead. The weights to load are stored in
            every checkpoint. A failed or cancelled fit leaves the model unchanged.

    Attributes:
        best: Best value so far, or None if there is none.
        best_epoch: Index (from 0) of the epoch with the best value, or None if there is no best value.
        waited: Number of epochs since the epoch with the best value.

    Raises:
        ArgumentError: If an argument is out of range, or if the learner does not have the metric or the phase when the
            fit begins.

    Example:
        >>> from dashpot import AdamW, tasks
        >>> from dashpot.training import Engine, Learner
        >>> learner = Learner.of(tasks.get("digits").build(0), AdamW, lr=0.0, engine=Engine("cpu"))
        >>> learner.fit(100, callbacks=[EarlyStopping(patience=2)])
        >>> learner.stop_reason
        'eval loss has not improved from 2... for 2 epochs'
        >>> len(learner.history)
        3
    """

    order: ClassVar[int] = 80
    state_schema: ClassVar[Rule] = Record(
        {
            "best": Maybe(REAL),
            "best_epoch": Maybe(COUNT),
            "waited": COUNT,
            "weights": Maybe(MapOf(PLAIN)),
            "measured": Record({"metric": TEXT, "phase": PHASE, "mode": MODE, "min_delta": NONNEGATIVE}),
        }
    )

    def __init__(
        self,
        metric: str = "loss",
        phase: str = "eval",
        patience: int = 3,
        min_delta: float = 0.0,
        mode: str = "min",
        restore_best: bool = False,
    ) -> None:
        if not isinstance(metric, str):
            raise ArgumentError(f"EarlyStopping: metric must be the name of a metric, got {shown(metric)}.")
        check("EarlyStopping", "phase", phase, PHASE)
        check("EarlyStopping", "patience", patience, Interval(1, math.inf, "left", integer=True))
        check("EarlyStopping", "min_delta", min_delta, NONNEGATIVE)
        check("EarlyStopping", "mode", mode, MODE)
        check("EarlyStopping", "restore_best", restore_best, FLAG)
        self.metric, self.phase, self.patience, self.min_delta = metric, phase, int(patience), float(min_delta)
        self.mode, self.restore_best = mode, restore_best
        self._reset()

    def _reset(self) -> None:
        self.best: float | None = None
        self.best_epoch: int | None = None
        self.waited = 0
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
            best = "" if self.best is None else f" from {self.best:.4g}"
            waited = f"{self.waited} {self._learner.loop.plan.noun}s"
            self._learner.stop_reason = f"{self.phase} {self.metric} has not improved{best} for {waited}"

    def after_fit(self, learner: Learner) -> None:
        self._completed = True

    def cleanup_fit(self, learner: Learner) -> None:
        if self._completed and self._weights is not None:
            weights.load_model_state(learner.model, self._weights)
            self.in_model = f"the weights of epoch {(self.best_epoch or 0) + 1}"
        self._completed = False

    def state_dict(self) -> dict[str, Any]:
        state = {"best": self.best, "best_epoch": self.best_epoch, "waited": self.waited, "weights": self._weights}
        return {**state, "measured": self.settings()}

    def check_state(self, state: Mapping[str, Any], path: str) -> None:
        super().check_state(state, path)
        if state["measured"] != self.settings() and not self._learner.loop.override:
            raise SchemaError(f"{path}.measured must equal the settings of the callback")
        if (state["best"] is None) != (state["best_epoch"] is None):
            raise SchemaError(f"{path}.best_epoch must be None if and only if best is None")
        if self.restore_best and state["weights"] is not None:
            weights.check_model(self._learner.model, state["weights"])
        elif self.restore_best and state["best"] is not None and state["measured"] == self.settings():
            raise SchemaError(f"{path}.weights must be a dict, got None")

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state["measured"] != self.settings():  # values of a different metric or phase are not comparable
            return
        self.best, self.best_epoch, self.waited = state["best"], state["best_epoch"], state["waited"]
        self._weights = state["weights"] if self.restore_best else None
        self._stop_if_exhausted()
