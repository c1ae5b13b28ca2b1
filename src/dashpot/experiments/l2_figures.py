"""Figures of the experiment `l2-vs-decoupled`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dashpot import figures as style
from dashpot.experiments import l2_vs_decoupled as experiment
from dashpot.experiments.intervals import mean_interval
from dashpot.experiments.l2_simulations import DECAY

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ADAGRAD_NOTE = (
    "Size of the L2 term lr lambda w/sqrt(s) in units of lr/sqrt(t): predicted (line) and measured. Above 1, where the "
    "L2 term dominates the gradient, the term is the same for every weight and every lambda; decoupled decay is "
    "proportional to the weight everywhere."
)
ADAM_NOTE = (
    "First: relative shrinkage of a weight per step. Adam divides the L2 term by the root mean square of the gradient. "
    "Second: coefficient of the L2 penalty with the same stationary point. For AdamW, it is lambda d. Lines are "
    "predictions, points are means over seeds with 95 % intervals."
)
DAMPING_NOTE = (
    "Noise-free quadratic with minimum 1, beta .9, lr h = 1: without decay, with coupled decay and with decay at the "
    "level of the parameter change, rho = .2. Coupled decay raises the frequency of the oscillation, and decoupled "
    "decay shortens it."
)


def adagrad(data: Mapping[str, Any], ax: Axes | None = None) -> Figure:
    """Draw the L2 term of AdaGrad against its size relative to the gradient noise."""
    figure, (panel,) = style.new_figure("adagrad", size=(6.4, 3.6), ax=ax)
    ratio = np.geomspace(0.005, 200, 200)
    lines = {"AdaGrad, predicted": ratio / np.sqrt(1 + ratio**2), "proportional to w": ratio}
    for index, (name, values) in enumerate(lines.items()):
        line = panel.plot(ratio, values, "-" if index == 0 else "--", color=style.color(index), label=name)[0]
        style.tag(line, f"adagrad-{index}", name)
    _points(panel, experiment.RATIOS, data["adagrad"], 0, "adagrad-measured", "AdaGrad, measured")
    panel.set(
        xscale="log", yscale="log", ylim=(0.004, 8), xlabel="lambda w/sigma", ylabel="L2 term, units of lr/sqrt(t)"
    )
    panel.legend()
    return figure


def adam(data: Mapping[str, Any], ax: Sequence[Axes] | None = None) -> Figure:
    """Draw shrinkage and stationary L2 coefficient of Adam and AdamW against the scale of the gradient."""
    figure, axes = style.new_figure("adam", 1, 2, size=(8.0, 3.6), ax=ax)
    scale = np.geomspace(0.01, 10, 100)
    predicted = {
        "Adam": (1 / np.sqrt(scale**2 + DECAY**2), np.full_like(scale, DECAY)),
        "AdamW": (np.ones_like(scale), np.array([experiment.stationary_strength(value) for value in scale])),
    }
    places = experiment.SCALES, experiment.STATIONARY_SCALES
    for index, (name, lines) in enumerate(predicted.items()):
        rows = data[name], data[f"{name} strength"]
        for number, panel in enumerate(axes):
            line = panel.plot(scale, lines[number], color=style.color(index), label=name)[0]
            style.tag(line, name.lower(), name)
            _points(panel, places[number], rows[number], index, f"{name.lower()}-points", f"{name}, measured")
    for panel, words in zip(axes, ("shrinkage, units of lr lambda", "L2 coefficient"), strict=True):
        panel.set(xscale="log", yscale="log", xlabel="standard deviation of the gradient", ylabel=words)
        panel.legend()
    return figure


def damping(data: Mapping[str, Any], ax: Axes | None = None) -> Figure:
    """Draw the paths of an oscillating mode without decay and with both decays."""
    figure, (panel,) = style.new_figure("damping", size=(6.4, 3.4), ax=ax)
    for index, (name, whole) in enumerate(data["paths"].items()):
        path = whole[:61]
        line = panel.plot(range(len(path)), path, color=style.color(index), label=name)[0]
        style.tag(line, f"path-{index}", name)
    panel.set(xlabel="step", ylabel="weight")
    panel.legend()
    return figure


def _points(
    panel: Axes, places: Sequence[float], rows: Sequence[Sequence[float]], index: int, key: str, name: str
) -> None:
    """Draw means over seeds with 95 % intervals."""
    found = [mean_interval(column) for column in zip(*rows, strict=True)]
    mean = [item.mean for item in found]
    ends = [[item.mean - item.low for item in found], [item.high - item.mean for item in found]]
    bars = panel.errorbar(places, mean, ends, fmt="o", color=style.color(index))
    style.tag(bars[0], key, name)
