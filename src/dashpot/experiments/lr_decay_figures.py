"""Figures of the experiment `lr-decay`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dashpot import figures as style
from dashpot.experiments import lr_decay as experiment
from dashpot.experiments.intervals import mean_interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SCHEDULES_NOTE = (
    "Test accuracy of each method and schedule at the rate that validation data of other seeds choose: mean over "
    "seeds with 95 % interval."
)
COOLING_NOTE = (
    "Left: share of weights in the deeper well of a double well after cooling in the given number of steps, from the "
    "shallower well. Right: test accuracy of a network whose rate falls to a tenth in the given share of the run "
    "and remains there. Means with 95 % intervals."
)
DROPS_NOTE = (
    "Mean training loss over seeds of deep networks for the digits. The rate is halved after one and two thirds of "
    "the run, or constant."
)


def schedules(data: Mapping[str, Any], ax: Axes | None = None) -> Figure:
    """Draw the accuracies of all methods and schedules."""
    figure, (panel,) = style.new_figure("schedules", size=(6.4, 3.6), ax=ax)
    names = list(experiment.SCHEDULES)
    for index, method in enumerate(experiment.RATES):
        values = [mean_interval(data["methods"][f"{method} {name}"]["test"]) for name in names]
        places = [place + 0.15 * (index - 1) for place in range(len(names))]
        _bars(panel, places, values, index, method)
    panel.set_xticks(range(len(names)), names)
    panel.set_ylabel("test accuracy")
    panel.legend(loc="lower right")
    return figure


def cooling(data: Mapping[str, Any], ax: Sequence[Axes] | None = None) -> Figure:
    """Draw the shares in the deeper well and the accuracies after slow and fast cooling."""
    figure, axes = style.new_figure("cooling", 1, 2, size=(9.0, 3.6), ax=ax)
    steps = [int(name) for name in data["wells"]]
    _bars(axes[0], steps, [mean_interval(values) for values in data["wells"].values()], 0, "deeper well")
    axes[0].set(xscale="log", xlabel="steps of cooling", ylabel="share in the deeper well", ylim=(0, 1))
    shown = data["cooling"]
    _bars(axes[1], range(len(shown)), [mean_interval(item["test"]) for item in shown.values()], 0, "accuracy")
    axes[1].set_xticks(
        range(len(shown)), [name.replace(" of the run", "").replace("the whole run", "1") for name in shown]
    )
    axes[1].set(xlabel="share of the run with a falling rate", ylabel="test accuracy")
    return figure


def drops(data: Mapping[str, Any], ax: Sequence[Axes] | None = None) -> Figure:
    """Draw the training losses with drops of the rate and at a constant rate."""
    figure, axes = style.new_figure("drops", 1, 2, size=(9.0, 3.6), ax=ax)
    for panel, (name, item) in zip(axes, data["drops"].items(), strict=True):
        for index, kind in enumerate(("drops", "constant")):
            means = [sum(values) / len(values) for values in item[kind]]
            label = "halved twice" if kind == "drops" else "constant rate"
            line = panel.plot(item["steps"], means, color=style.color(index), label=label)[0]
            style.tag(line, kind, label)
        panel.set(yscale="log", title=f"{name} skip connections", xlabel="step")
    axes[0].set_ylabel("training loss")
    axes[0].legend()
    return figure


def _bars(panel: Axes, places: Sequence[float], values: Sequence[Sequence[float]], index: int, name: str) -> None:
    """Draw means with their intervals."""
    mean, low, high = zip(*values, strict=True)
    errors = [[m - a for m, a in zip(mean, low, strict=True)], [b - m for m, b in zip(mean, high, strict=True)]]
    bars = panel.errorbar(list(places), mean, errors, fmt="o", color=style.color(index), label=name)
    style.tag(bars[0], f"series-{index}", name)
