"""Charts of a comparison as plotly figures, for a report or a notebook.

Every trace has `meta = {"method": ..., "role": ...}`, from which a page determines the color and visibility of the
trace.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dashpot.comparison.curves import change_points, downsample, score_band, smoothed_loss
from dashpot.comparison.palette import Style, styles_for
from dashpot.errors import RunError
from dashpot.runs.records import Run

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

MAX_POINTS = 400
MIN_RATIO = 1e-12  # a logarithmic axis omits values below this fraction of the maximum
HOVER = "%{y:.4g}"


def loss_figure(runs: Sequence[Run]) -> Figure:
    """Return the chart of the training loss: a moving average over 1/30 of the run, and the loss of single steps.

    The moving average is the mean over seeds.
    """
    figure = _figure("steps", "training loss")
    _log_axis(figure, [loss for run in runs for loss in run.loss])
    methods, styles = _by_method(runs), _styles(runs)
    for name, group in methods.items():
        for run in group:
            _add(figure, name, "raw", styles[name], downsample(np.asarray(run.loss), MAX_POINTS), hoverinfo="skip")
    for name, group in methods.items():
        finished = [run for run in group if run.loss and run.status != "diverged"]
        if finished:
            window = max(1, max(len(run.loss) for run in finished) // 30)
            mean = downsample(smoothed_loss(finished, window), MAX_POINTS)
            _add(figure, name, "line", styles[name], mean, hovertemplate=HOVER)
        _add_divergences(figure, name, styles[name], group)
    return figure


def score_figure(runs: Sequence[Run], phase: str, metric: str) -> Figure:
    """Return the chart of `metric` after each epoch: the mean over seeds, in a band from minimum to maximum."""
    figure = _figure("steps", f"{phase} {metric}")
    methods, styles = _by_method([run for run in runs if run.epochs and run.status != "diverged"]), _styles(runs)
    if metric == "loss":
        _log_axis(figure, [epoch[phase][metric] for group in methods.values() for run in group for epoch in run.epochs])
    bands = {name: score_band(group, phase, metric) for name, group in methods.items()}
    for name, band in bands.items():
        if len(methods[name]) > 1:
            x, y = np.concatenate([band.steps, band.steps[::-1]]), np.concatenate([band.low, band.high[::-1]])
            _add(figure, name, "band", styles[name], (x, y), hoverinfo="skip")
    for name, band in bands.items():
        _add(figure, name, "line", styles[name], (band.steps, band.mean), mode="lines+markers", hovertemplate=HOVER)
    return figure


def lr_figure(runs: Sequence[Run]) -> Figure:
    """Return the chart of the learning rate of each step, for the first run of each method."""
    figure = _figure("steps", "learning rate")
    methods, styles = _by_method([run for run in runs if run.lr]), _styles(runs)
    _log_axis(figure, [lr for run in runs for lr in run.lr])
    for name, group in methods.items():
        _add(figure, name, "line", styles[name], change_points(group[0].lr), hovertemplate=HOVER)
    return figure


def _figure(x: str, y: str) -> Figure:
    try:
        import plotly.graph_objects as go
    except ImportError as error:
        raise RunError("Charts need plotly: pip install 'dashpot[plot]'.") from error
    figure = go.Figure()
    figure.update_layout(
        template="none",
        showlegend=False,
        hovermode="x unified",
        xaxis={"title": {"text": x}, "rangemode": "tozero"},
        yaxis={"title": {"text": y}, "automargin": True, "exponentformat": "power"},
        margin={"l": 56, "r": 12, "t": 12, "b": 44},
    )
    return figure


def _log_axis(figure: Figure, values: Sequence[float]) -> None:
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
    figure.update_yaxes(
        type="log",
        range=[math.log10(low / margin / 1.02), math.log10(high * margin * 1.02)],
        tickvals=ticks,
        ticktext=[f"{tick:g}" for tick in ticks],
    )


def _add(figure: Figure, name: str, role: str, style: Style, points: tuple[Any, Any], **options: Any) -> None:
    """Add a trace in the style of its role: "line", "raw" (single steps), "band" or "diverged"."""
    by_role: dict[str, dict[str, Any]] = {
        "line": {"line": {"color": style.light, "width": 2, "dash": style.dash}},
        "raw": {"line": {"color": style.light, "width": 1}, "opacity": 0.2},
        "band": {"line": {"width": 0}, "fill": "toself", "fillcolor": style.light, "opacity": 0.16},
        "diverged": {
            "marker": {"color": style.light, "symbol": "x-thin", "size": 10, "line": {"width": 2, "color": style.light}}
        },
    }
    options = {"mode": "markers" if role == "diverged" else "lines", **by_role[role], **options}
    x, y = (axis.tolist() for axis in points)
    figure.add_scatter(x=x, y=y, name=name, meta={"method": name, "role": role}, **options)


def _add_divergences(figure: Figure, name: str, style: Style, runs: Sequence[Run]) -> None:
    """Mark the last finite loss of every diverged run with a cross."""
    ends = [run for run in runs if run.status == "diverged" and len(run.loss) > 1]
    if ends:
        x, y = np.array([len(run.loss) - 1.0 for run in ends]), np.array([run.loss[-2] for run in ends])
        _add(figure, name, "diverged", style, (x, y), hovertemplate="diverged after this step")


def _by_method(runs: Sequence[Run]) -> dict[str, list[Run]]:
    methods: dict[str, list[Run]] = {}
    for run in runs:
        methods.setdefault(run.entry, []).append(run)
    return methods


def _styles(runs: Sequence[Run]) -> dict[str, Style]:
    """Return the styles of all methods of the study, so that colors do not depend on the runs in a chart."""
    return styles_for(_by_method(runs))
