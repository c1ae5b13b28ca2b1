"""Figures of the experiment `lr-sensitivity`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dashpot import figures as style
from dashpot.experiments import lr_sensitivity as experiment
from dashpot.experiments.intervals import mean_interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CURVES_NOTE = (
    "Mean test accuracy over seeds against the learning rate divided by the rate that validation data of other seeds "
    "choose. A network that diverges has the accuracy of its untrained state."
)
WIDTHS_NOTE = (
    "Decades of learning rates around the chosen one whose accuracy is at most .02 lower: mean over seeds with 95 % "
    "interval."
)


def curves(data: Mapping[str, Any], ax: Sequence[Axes] | None = None) -> Figure:
    """Draw accuracies against the rate."""
    figure, axes = style.new_figure("curves", 1, len(data), size=(4.6 * len(data) + 0.4, 3.8), ax=ax)
    for panel, (name, found) in zip(axes, data.items(), strict=True):
        for index, (method, item) in enumerate(found["methods"].items()):
            chosen = item["rates"][item["best"]]
            means = [sum(scores) / len(scores) for scores in item["test"]]
            places = [rate / chosen for rate in item["rates"]]
            line = panel.plot(places, means, "o-", markersize=3.5, color=style.color(index), label=method)[0]
            style.tag(line, f"method-{index}", method)
        panel.set(xscale="log", title=name, xlabel="rate / chosen rate")
    axes[0].set_ylabel("test accuracy")
    axes[0].legend(fontsize="small")
    return figure


def ranges(data: Mapping[str, Any], ax: Sequence[Axes] | None = None) -> Figure:
    """Draw the widths of the ranges of good rates."""
    figure, axes = style.new_figure("widths", 1, len(data), size=(4.6 * len(data) + 0.4, 3.4), ax=ax)
    for panel, (name, found) in zip(axes, data.items(), strict=True):
        measured = experiment.widths(found["methods"])
        for place, (method, values) in enumerate(reversed(measured.items())):
            mean, low, high = mean_interval(value for value, _ in values)
            bars = panel.errorbar(mean, place, xerr=[[mean - low], [high - mean]], fmt="o", color=style.color(0))
            style.tag(bars[0], "width", method)
        panel.set_yticks(range(len(measured)), list(reversed(measured)))
        panel.set(title=name, xlabel="decades of good rates", xlim=(0, None))
    return figure
