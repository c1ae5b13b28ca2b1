"""Loss curve of a fit: training losses of steps, thinned to a fixed number of points, and losses of evaluations."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from dashpot.figures import label_lines, new_figure
from dashpot.training.callbacks.recorder import StepRecorder
from dashpot.utils.schema import COUNT, POSITIVE_COUNT, REAL, ListOf, Record, Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from dashpot.training.learner import Learner

POINTS = 512
"""Largest number of points; more than a figure or a terminal resolves."""
LOG_RATIO = 20
"""Smallest ratio between the largest and the smallest loss for a logarithmic axis."""

Points = list[tuple[int, float]]
CURVE_SCHEMA = Record(
    {
        "train": Record({"size": POSITIVE_COUNT, "groups": ListOf(Row((COUNT, POSITIVE_COUNT, COUNT, REAL)))}),
        "eval": ListOf(Row((COUNT, REAL))),
    }
)
"""Form of the state of a curve."""


class ThinnedSeries:
    """Means over groups of consecutive values; the size of the groups doubles when there are more than `limit`.

    Non-finite values are omitted from the means.

    >>> series = ThinnedSeries(limit=2)
    >>> for step, value in enumerate([4.0, 2.0, 1.0, 3.0, 5.0], 1):
    ...     series.add(step, value)
    >>> series.points
    [(2, 3.0), (4, 2.0), (5, 5.0)]
    """

    def __init__(self, limit: int = POINTS) -> None:
        self.limit, self.size = limit, 1
        self._groups: list[list[float]] = []  # last step, number of values, number and sum of the finite values

    def add(self, step: int, value: float) -> None:
        """Add the value of a step."""
        new = [step, 1, 1, value] if math.isfinite(value) else [step, 1, 0, 0.0]
        if self._groups and self._groups[-1][1] < self.size:
            self._groups[-1] = _joined(self._groups[-1], new)
        else:
            self._groups.append(new)
        if len(self._groups) > self.limit and self._groups[-1][1] == self.size:
            self._halve()

    def _halve(self) -> None:
        groups, self.size = self._groups, 2 * self.size
        self._groups = [_joined(a, b) for a, b in zip(groups[::2], groups[1::2], strict=False)]
        self._groups += groups[2 * len(self._groups) :]

    @property
    def points(self) -> Points:
        """Last step and mean of each group."""
        return [(int(step), total / finite) for step, _, finite, total in self._groups if finite]

    def state_dict(self) -> dict[str, Any]:
        """Return the groups as plain data."""
        return {"size": self.size, "groups": [list(group) for group in self._groups]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the groups."""
        self.size, self._groups = state["size"], [list(group) for group in state["groups"]]


def _joined(a: list[float], b: list[float]) -> list[float]:
    return [b[0], a[1] + b[1], a[2] + b[2], a[3] + b[3]]


class LossCurve:
    """Losses of a fit, over all ranks. The hooks have the arguments of the events and actions of a callback.

    Attributes:
        evaluation: Step and loss of each evaluation.
    """

    def __init__(self, learner: Learner) -> None:
        self.evaluation: Points = []
        self._train, self._recorder = ThinnedSeries(), StepRecorder()
        self._steps: list[int] = []  # steps whose losses have not been read yet
        self._recorder.before_fit(learner)

    @property
    def train(self) -> Points:
        """Step and mean training loss of each group of steps."""
        return self._train.points

    def after_backward(self, learner: Learner) -> None:
        """Add the loss of a micro-batch."""
        self._recorder.after_backward(learner)

    def step(self, learner: Learner, proceed: Callable[[], None]) -> None:
        """Record the loss of the step."""
        self._recorder.step(learner, proceed)
        if learner.batch.stepped and not learner.loop.optimizers:
            self._steps.append(learner.steps + 1)  # `learner.steps` is incremented after the action

    def after_step(self, learner: Learner) -> None:
        """Record the sum of the losses of several optimizers, after the step of the last one."""
        self._recorder.after_step(learner)
        if learner.loop.optimizers:
            self._steps.append(learner.steps)

    def read(self, *, reduce: bool) -> None:
        """Add the recorded losses to the curve; `reduce` includes those that all ranks must reduce first."""
        rows = self._recorder.pop_rows(flush=reduce)
        steps, self._steps = self._steps[: len(rows)], self._steps[len(rows) :]
        for step, row in zip(steps, rows, strict=True):
            self._train.add(step, row["loss"])

    def state_dict(self) -> dict[str, Any]:
        """Return the curve as plain data; all ranks must call this method."""
        self.read(reduce=True)
        return {"train": self._train.state_dict(), "eval": [list(point) for point in self.evaluation]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the curve."""
        self._train.load_state_dict(state["train"])
        self.evaluation = [(step, loss) for step, loss in state["eval"]]


def is_logarithmic(losses: list[float]) -> bool:
    """Return whether a logarithmic axis shows the losses better than a linear axis."""
    return bool(losses) and min(losses) > 0 and max(losses) > LOG_RATIO * min(losses)


def draw_figure(curve: LossCurve, ax: Axes | None = None) -> Any:
    """Return a matplotlib figure of the curve, drawn on `ax` or on a new figure."""
    figure, [axes] = new_figure("Progress", ax=ax)
    evaluation = [(step, loss) for step, loss in curve.evaluation if math.isfinite(loss)]
    for label, points, style in (("train", curve.train, "-"), ("eval", evaluation, "o-")):
        if points:
            axes.plot(*zip(*points, strict=True), style, label=label, markersize=4)
    if is_logarithmic([loss for _, loss in curve.train + evaluation]):
        axes.set_yscale("log")
    axes.set_xlabel("step")
    axes.set_ylabel("loss")
    label_lines(axes)
    return figure
