"""Figures of the experiment `three-optimizers`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dashpot import figures as style
from dashpot.experiments import three_optimizers as experiment
from dashpot.experiments.intervals import mean_interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LOSSES_NOTE = "Mean training loss over seeds at the same low rate, and at the fastest rate of each method."
TIMES_NOTE = (
    "Steps to the target of the training loss, each method at its fastest rate, which other seeds choose: mean over "
    "seeds with 95 % interval."
)


def losses(data: Mapping[str, Any], ax: Sequence[Axes] | None = None) -> Figure:
    """Draw the training losses at the low and at the fastest rates."""
    figure, axes = style.new_figure("low", 1, 2, size=(9.0, 3.6), ax=ax)
    titles = {"low": f"rate {experiment.LOW:g}", "fast": "fastest rate of each method"}
    for panel, (key, title) in zip(axes, titles.items(), strict=True):
        for index, (name, item) in enumerate(data[key].items()):
            means = [sum(values) / len(values) for values in item["losses"]]
            line = panel.plot(item["steps"], means, color=style.color(index), label=name)[0]
            style.tag(line, f"method-{index}", name)
        panel.axhline(experiment.TARGET, color=style.color("rule"), linewidth=1)
        panel.set(yscale="log", title=title, xlabel="step")
    axes[0].set_ylabel("training loss")
    axes[0].legend(loc="lower left")
    return figure


def times(data: Mapping[str, Any], ax: Axes | None = None) -> Figure:
    """Draw the steps to the target at the fastest rates."""
    figure, (panel,) = style.new_figure("time", size=(6.4, 2.8), ax=ax)
    for place, (name, item) in enumerate(reversed(data["fast"].items())):
        mean, low, high = mean_interval(item["time"])
        bars = panel.errorbar(mean, place, xerr=[[mean - low], [high - mean]], fmt="o", color=style.color(0))
        style.tag(bars[0], "time", name)
    panel.set_yticks(range(len(data["fast"])), list(reversed(data["fast"])))
    panel.set(xlabel=f"steps to the training loss {experiment.TARGET:g}", xlim=(0, None))
    return figure
