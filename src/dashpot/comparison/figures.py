"""Charts of a comparison, for a report or a notebook.

The artists of a method are tagged with its name, so that a page can toggle the method. Their roles are "values" for
curves, "raw" for single steps, "band" for the range over seeds, and "diverged".
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dashpot.comparison.curves import change_points, downsample, score_band, smoothed_loss
from dashpot.errors import ArgumentError, RunError
from dashpot.figures import label_lines, new_figure, tag
from dashpot.figures.literal import literal
from dashpot.figures.method_styles import Style, styles_for
from dashpot.runs.records import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_POINTS = 400
MIN_RATIO = 1e-12  # a logarithmic axis omits values below this fraction of the maximum
SIZE = (6.2, 3.7)


def loss_figure(runs: Sequence[Run], ax: Axes | None = None) -> Figure:
    """Return the chart of the training loss: a moving average over 1/30 of the run, and the loss of single steps.

    The moving average is the mean over seeds.
    """
    figure, ax = _figure("steps", "training loss", ax)
    methods, styles = _by_method(runs), _styles(runs)
    for name, group in methods.items():
        for run in group:
            x, y = downsample(np.asarray(run.loss), MAX_POINTS)
            [line] = ax.plot(x, y, color=styles[name].hue.light, linestyle="solid", linewidth=0.8, alpha=0.25)
            tag(line, name, role="raw")
    for name, group in methods.items():
        finished = [run for run in group if run.loss and run.status != "diverged"]
        if finished:
            window = max(1, max(len(run.loss) for run in finished) // 30)
            _add_line(ax, name, styles[name], *downsample(smoothed_loss(finished, window), MAX_POINTS))
        _add_divergences(ax, name, styles[name], group)
    _log_axis(ax, [loss for run in runs for loss in run.loss])
    return _finished(figure, ax)


def score_figure(runs: Sequence[Run], phase: str, metric: str, ax: Axes | None = None) -> Figure:
    """Return the chart of `metric` after each epoch: the mean over seeds, in a band from minimum to maximum."""
    figure, ax = _figure("steps", f"{phase} {metric}", ax)
    methods, styles = _by_method([run for run in runs if run.epochs and run.status != "diverged"]), _styles(runs)
    bands = {name: score_band(group, phase, metric) for name, group in methods.items()}
    for name, band in bands.items():
        if len(methods[name]) > 1:
            hue = styles[name].hue.light
            tag(ax.fill_between(band.steps, band.low, band.high, color=hue, alpha=0.16, linewidth=0), name, role="band")
    for name, band in bands.items():
        _add_line(ax, name, styles[name], band.steps, band.mean, marker="o", markersize=3.5)
    if metric == "loss":
        _log_axis(ax, [epoch[phase][metric] for group in methods.values() for run in group for epoch in run.epochs])
    return _finished(figure, ax)


def lr_figure(runs: Sequence[Run], ax: Axes | None = None) -> Figure:
    """Return the chart of the learning rate of each step, for the first run of each method."""
    figure, ax = _figure("steps", "learning rate", ax)
    methods, styles = _by_method([run for run in runs if run.lr]), _styles(runs)
    for name, group in methods.items():
        _add_line(ax, name, styles[name], *change_points(group[0].lr))
    _log_axis(ax, [lr for run in runs for lr in run.lr])
    return _finished(figure, ax)


def _figure(x: str, y: str, ax: Axes | None) -> tuple[Figure, Axes]:
    try:
        figure, [ax] = new_figure("Charts", size=SIZE, ax=ax)
    except ArgumentError as error:
        raise RunError(str(error)) from error
    ax.set_xlabel(x)
    ax.set_ylabel(literal(y))
    return figure, ax


def _finished(figure: Figure, ax: Axes) -> Figure:
    ax.set_xlim(left=0)
    label_lines(ax)
    return figure


def _log_axis(ax: Axes, values: Sequence[float]) -> None:
    """Make the y axis logarithmic, with ticks at decades and, if there are at most four decades, at 2 and 5.

    The axis remains linear if a value is negative or if all positive values are within a factor of five.
    """
    positive = [value for value in values if 0 < value < math.inf]
    if not positive or min(values) < 0 or max(positive) < 5 * min(positive):
        return
    high = max(positive)
    low = max(min(positive), high * MIN_RATIO)
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    marks = (1, 2, 5) if len(decades) <= 4 else (1,)
    ticks = [float(f"{mark}e{decade}") for decade in decades for mark in marks]
    margin = (high / low) ** 0.04
    bottom, top = low / margin / 1.02, high * margin * 1.02
    ax.set_yscale("log", nonpositive="mask")
    inside = [tick for tick in ticks if bottom <= tick <= top]
    ax.set_yticks(inside, [f"{tick:g}" for tick in inside])
    ax.set_yticks([], minor=True)
    ax.set_ylim(bottom, top)


def _add_line(ax: Axes, name: str, style: Style, x: Any, y: Any, **options: Any) -> None:
    [line] = ax.plot(x, y, label=literal(name), **{"linewidth": 1.6, **style.options, **options})
    tag(line, name)


def _add_divergences(ax: Axes, name: str, style: Style, runs: Sequence[Run]) -> None:
    """Mark the last finite loss of every diverged run with a cross."""
    ends = [run for run in runs if run.status == "diverged" and len(run.loss) > 1]
    if ends:
        x, y = [len(run.loss) - 1.0 for run in ends], [run.loss[-2] for run in ends]
        [line] = ax.plot(x, y, color=style.hue.light, linestyle="none", marker="x", markersize=7, markeredgewidth=1.6)
        tag(line, name, f"{name}: diverged after this step", role="diverged")


def _by_method(runs: Sequence[Run]) -> dict[str, list[Run]]:
    methods: dict[str, list[Run]] = {}
    for run in runs:
        methods.setdefault(run.entry, []).append(run)
    return methods


def _styles(runs: Sequence[Run]) -> dict[str, Style]:
    """Return the styles of all methods of the study, so that colors do not depend on the runs in a chart."""
    return styles_for(_by_method(runs))
