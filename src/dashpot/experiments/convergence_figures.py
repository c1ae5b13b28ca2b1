"""Figures of the experiment `convergence`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dashpot import figures as style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LOSSES_NOTE = (
    "Expected loss at the end of runs of different lengths on the noisy quadratic: lines by the exact second moments, "
    "points measured. The rate that falls to a tenth is better from about 2700 steps on."
)
NORMS_NOTE = "Norm of the gradient over all training images of a 64-32-10 network on the digits, with batches of 10."
EXAMPLES_NOTE = (
    "Top: the weight on log(1 + exp(-w)) goes to infinity. Middle: two runs from (1, 0) on the line that leads to the "
    "saddle at 0. Bottom: a run on the spiral loss, which circles the limit circle forever."
)
COOLING_NOTE = (
    "Share of runs that end in the deeper well of a tilted double well, with 95 % intervals over seeds, against the "
    "time of cooling; half of the runs start in each well."
)
_NAMES = {"constant": "constant", "root": "(1 + t/300)^-1/2", "vanishing": "1/(1 + 9 t/steps)"}


def losses(data: Mapping[str, Any], ax: Axes | None = None) -> Figure:
    """Draw the loss at the end of runs against their length."""
    figure, (panel,) = style.new_figure("losses", size=(6.4, 3.8), ax=ax)
    shown = data["losses"]
    for index, (kind, name) in enumerate(_NAMES.items()):
        color = style.color(index)
        line = panel.plot(shown["steps"], shown["expected"][kind], color=color, label=name)[0]
        style.tag(line, f"expected-{kind}", f"expected, {name}")
        steps = list(shown["measured"][kind])
        means = [shown["measured"][kind][step][0] for step in steps]
        points = panel.plot([int(step) for step in steps], means, "o", color=color, markersize=5)[0]
        style.tag(points, f"measured-{kind}", f"measured, {name}")
    panel.set(xlabel="steps of the run", ylabel="loss", xscale="log", yscale="log")
    panel.legend()
    return figure


def norms(data: Mapping[str, Any], ax: Axes | None = None) -> Figure:
    """Draw the norm of the full gradient for a constant and a vanishing rate."""
    figure, (panel,) = style.new_figure("norms", size=(6.4, 3.4), ax=ax)
    shown = data["norms"]
    steps = [max(step, 1) for step in shown["steps"]]
    names = {"constant": "constant rate", "vanishing": "rate 1/(1 + .03 t)"}
    for index, (kind, name) in enumerate(names.items()):
        values = np.array(shown[kind])
        line = panel.plot(steps, values[:, 0], "o-", color=style.color(index), markersize=4, label=name)[0]
        style.tag(line, f"norm-{kind}", name)
        panel.fill_between(steps, values[:, 1], values[:, 2], color=style.color(index), alpha=0.2, linewidth=0)
    panel.set(xlabel="step", ylabel="gradient norm", xscale="log", yscale="log")
    style.label_lines(panel)
    return figure


def examples(data: Mapping[str, Any], ax: Sequence[Axes] | None = None) -> Figure:
    """Draw the paths on the three counterexamples."""
    figure, (escape, saddle, spiral) = style.new_figure("examples", 3, size=(6.4, 9.6), ax=ax)
    line = escape.plot(data["escape"]["steps"], data["escape"]["w"], color=style.color(0))[0]
    style.tag(line, "escape", "weight")
    escape.set(xlabel="step", ylabel="weight")
    x, y = np.meshgrid(np.linspace(-1.3, 1.3, 60), np.linspace(-1.4, 1.4, 60))
    saddle.contour(x, y, x**2 / 2 + (y**2 - 1) ** 2 / 4, levels=8, colors=style.color("rule"), linewidths=0.7)
    names = {"still": "noise vanishes with the gradient", "noisy": "noise in every direction"}
    for index, (kind, name) in enumerate(names.items()):
        path = data["saddle"][kind]
        style.tag(saddle.plot(path["x"], path["y"], color=style.color(index), label=name)[0], kind, name)
    saddle.set(xlabel="x", ylabel="y")
    saddle.legend()
    angle = np.linspace(0, 2 * np.pi, 100)
    spiral.plot(np.cos(angle), np.sin(angle), "--", color=style.color("muted"), linewidth=1, label="limit circle")
    path = data["spiral"]
    style.tag(spiral.plot(path["x"], path["y"], color=style.color(0), label="path")[0], "spiral", "path")
    spiral.set(xlabel="x", ylabel="y", aspect="equal")
    spiral.legend(loc="upper left")
    return figure


def cooling(data: Mapping[str, Any], ax: Axes | None = None) -> Figure:
    """Draw the share of runs in the deeper well against the time of cooling."""
    figure, (panel,) = style.new_figure("cooling", size=(6.4, 3.0), ax=ax)
    times = [int(time) for time in data["cooling"]]
    values = np.array(list(data["cooling"].values()))
    errors = [values[:, 0] - values[:, 1], values[:, 2] - values[:, 0]]
    points = panel.errorbar(times, values[:, 0], errors, fmt="o-", color=style.color(0))
    style.tag(points[0], "share", "share in the deeper well")
    panel.set(xlabel="time of cooling in steps", ylabel="share in the deeper well", xscale="log")
    return figure
