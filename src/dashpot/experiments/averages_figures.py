"""Figures of the experiment `averages`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dashpot.figures import color, new_figure, tag

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

POINTS_NOTE = (
    "The lesson's points, with the average that starts at zero and the corrected average. A higher beta gives a "
    "smoother average that follows the curve later."
)
NOISE_NOTE = (
    "Stationary variance of the average divided by the variance of the points, with 95 % intervals over seeds (smaller "
    "than the marks), and the closed form (1 - beta)/(1 + beta)."
)
START_NOTE = (
    "First: average of the constant 1. Second: weight of the newest point. Both corrections remove the bias; 1/min(t, "
    "N) is the arithmetic mean until t = N."
)


def points(data: Mapping[str, Any], ax: Sequence[Axes] | None = None) -> Figure:
    """Draw the lesson's points and their averages, one panel for each beta."""
    shown = data["points"]
    betas = list(shown["corrected"])
    figure, axes = new_figure("points", 2, len(betas) // 2, size=(8.0, 5.2), sharex=True, ax=ax)
    for panel, beta in zip(axes, betas, strict=True):
        panel.plot(shown["x"], shown["y"], ".", color=color("muted"), markersize=4)
        panel.plot(shown["x"], shown["curve"], color=color("muted"), linewidth=1)
        lines = {"zero start": 1, "corrected": 0}
        for name, index in lines.items():
            line = panel.plot(shown["x"], shown[name][beta], color=color(index), label=name)[0]
            tag(line, name.replace(" ", "-"), name)
        panel.set_title(f"beta {beta}")
    axes[0].legend()
    return figure


def noise(data: Mapping[str, Any], ax: Axes | None = None) -> Figure:
    """Draw the measured noise gain and the closed form against beta."""
    figure, (panel,) = new_figure("noise", size=(6.4, 3.6), ax=ax)
    beta = np.linspace(0, 0.995, 200)
    line = panel.plot(beta, (1 - beta) / (1 + beta), color=color("muted"), label="predicted")[0]
    tag(line, "predicted", "predicted")
    for index, (name, (mean, low, high)) in enumerate(data["noise"].items()):
        bars = panel.errorbar(float(name), mean, [[mean - low], [high - mean]], fmt="o", color=color(index))
        tag(bars[0], f"beta-{name.replace('.', '')}", f"beta {name}")
        panel.annotate(f"{mean:.3g}", (float(name), mean), xytext=(6, 6), textcoords="offset points")
    panel.set(xlabel="beta", ylabel="variance per variance of the points", yscale="log")
    return figure


def start(data: Mapping[str, Any], ax: Sequence[Axes] | None = None) -> Figure:
    """Draw the average of a constant and the weight of the newest point in the initial phase."""
    figure, axes = new_figure("start", 1, 2, size=(8.0, 3.4), ax=ax)
    shown = data["start"]
    for panel, kind in zip(axes, ("outputs", "weights"), strict=True):
        for index, (name, values) in enumerate(shown[kind].items()):
            dashes = "--" if index == 2 else "-"
            line = panel.plot(shown["t"], values, dashes, color=color(index), label=name)[0]
            tag(line, f"{kind}-{index}", name)
        panel.set_xlabel("step t")
    axes[0].set_ylabel("average of the constant 1")
    axes[1].set_ylabel("weight of the newest point")
    axes[1].legend()
    return figure
