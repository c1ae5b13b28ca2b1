"""Figures of the values that a schedule or a torch scheduler produces."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from dashpot.constraints import Interval, check, shown
from dashpot.errors import ArgumentError
from dashpot.figures import label_lines, new_figure
from dashpot.figures.literal import literal
from dashpot.schedules.plateau import Plateau
from dashpot.schedules.schedule import Schedule
from dashpot.schedules.torch_values import Curves, simulate

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

STEPS = Interval(1, math.inf, "left", integer=True)
DEFAULT_STEPS = 100


def plot(
    schedule: Any,
    steps: int | None = None,
    *,
    base: float = 1.0,
    metrics: Sequence[float] | None = None,
    ax: Axes | Sequence[Axes] | None = None,
) -> Figure:
    """Return a matplotlib figure of the values that a schedule or a torch scheduler produces.

    The value at k on the x axis is the value after k steps, for torch schedulers after k steps from their current
    state. They and their optimizers are copied, so they do not change. Their figure has one panel for the learning rate
    and one for every other hyperparameter that changes, such as the momentum of `OneCycleLR`, with one line per
    parameter group. Groups with equal values share a line.

    Args:
        schedule: A `Schedule`, a mapping from names of hyperparameters to schedules, a `Plateau`, or a torch scheduler.
        steps: Number of values, at least 1. Default: the length of the schedule, if it is known, and 100 otherwise; for
            plateau schedules, one more than the number of `metrics`.
        base: Base value that the factors of a `Schedule` or `Plateau` multiply.
        metrics: Values of the metric that determine the values of a plateau schedule, one for each step.
        ax: Axes to draw on, one per panel. Default: a new figure.

    Returns:
        The figure; `dashpot.figures.save(figure, path)` writes it.

    Raises:
        ArgumentError: If an argument has the wrong type or is out of range, if `metrics` is missing for a plateau
            schedule, if the scheduler ends before `steps`, or if matplotlib is not installed.

    Example:
        >>> import torch
        >>> from dashpot.schedules import plot
        >>> opt = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1, momentum=0.9)
        >>> scheduler = torch.optim.lr_scheduler.OneCycleLR(opt, max_lr=0.1, total_steps=100)
        >>> figure = plot(scheduler, 100)
        >>> [axes.get_ylabel() for axes in figure.axes], scheduler.last_epoch
        (['lr', 'momentum'], 0)
    """
    curves = _curves(schedule, steps, base, metrics)
    figure, panels = new_figure("plot", rows=len(curves), size=(6.4, 0.8 + 2.2 * len(curves)), sharex=True, ax=ax)
    for axes, (name, lines) in zip(panels, curves.items(), strict=True):
        for label, values in lines.items():
            axes.step(range(len(values)), values, where="post", label=label)
        axes.set_ylabel(literal(name))
        if isinstance(schedule, (Schedule, Plateau)):
            axes.update_datalim([(0.0, 0.0)])
        if len(lines) > 1:
            label_lines(axes)
    panels[0].set_title(_title(schedule))
    panels[-1].set_xlabel("steps")
    figure.align_ylabels(panels)
    return figure


def _curves(schedule: Any, steps: int | None, base: float, metrics: Sequence[float] | None) -> Curves:
    given = type(schedule).__name__
    check("plot", "base", base, Interval())
    by_metric = isinstance(schedule, (Plateau, ReduceLROnPlateau))
    if metrics is None and by_metric:
        raise ArgumentError(
            f"plot: metrics must be given for {given}, whose values depend on a measured metric, got None."
        )
    if metrics is not None and not by_metric:
        raise ArgumentError(f"plot: metrics must be None for {given}, whose values depend only on the step.")
    known = 1 + len(metrics) if metrics is not None else _length(schedule)
    if steps is None:
        steps = known or DEFAULT_STEPS
    check("plot", "steps", steps, STEPS)
    if metrics is not None and steps > 1 + len(metrics):
        raise ArgumentError(f"plot: steps must be at most {known}, one more than the number of metrics, got {steps}.")
    if isinstance(schedule, (LRScheduler, ReduceLROnPlateau)):
        return simulate("plot", schedule, steps, metrics)
    if isinstance(schedule, Plateau):
        return {"value": {"": [base * schedule.factor_after((metrics or [])[:k]) for k in range(steps)]}}
    parts = schedule if isinstance(schedule, Mapping) else {"": schedule}
    if not parts or not all(isinstance(part, Schedule) for part in parts.values()):
        raise ArgumentError(
            "plot: schedule must be a dashpot Schedule or Plateau, a mapping of names to Schedules, or a torch "
            f"scheduler, got {shown(schedule)}."
        )
    labels = {
        name: name or ("factor" if base == 1.0 and not part.absolute else "value") for name, part in parts.items()
    }
    return {labels[n]: {"": [part.value(base, k) for k in range(steps)]} for n, part in parts.items()}


def _length(schedule: Any) -> int | None:
    """Return the number of steps of a schedule, or None if it is unknown."""
    parts = schedule.values() if isinstance(schedule, Mapping) else [schedule]
    lengths = [getattr(part, name, None) for part in parts for name in ("steps", "total_steps", "T_max")]
    return max((length for length in lengths if isinstance(length, int) and length > 0), default=None)


def _title(schedule: Any) -> str:
    if isinstance(schedule, (Schedule, Plateau)):
        return textwrap.fill(repr(schedule), width=76)
    return "" if isinstance(schedule, Mapping) else type(schedule).__name__
