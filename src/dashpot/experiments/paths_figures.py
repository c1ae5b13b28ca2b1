"""Figures of the experiment `paths`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dashpot.figures import color, new_figure, tag

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

RAVINE_NOTE = (
    "The first 60 steps, one mark for each step. Left: plain descent and momentum at lr 1.8, RMSprop and Adam at lr "
    "0.05. Right: every method at its best rate for this ravine."
)
VALLEY_NOTE = "The first 600 steps of every method at its best rate, and the loss at every step."
SADDLE_NOTE = (
    "Left: the first 200 steps from the same start. Right: distance from the saddle along its descending direction; "
    "the dashed line is the level at which a run has left the saddle."
)
MINIMA_NOTE = (
    "Critical points of all heights of isotropic Gaussian random functions, with 95 % intervals over seeds, and the "
    "exact shares in dimensions 1 to 3."
)


def ravine(data: Mapping[str, Any], ax: Sequence[Axes] | None = None) -> Figure:
    """Draw paths in the ravine at the same rate and at the best rates."""
    figure, axes = new_figure("ravine", 2, 1, size=(8.0, 6.4), ax=ax)
    across, along = np.meshgrid(np.linspace(-12, 14, 120), np.linspace(-2.4, 2.4, 80))
    loss = (along**2 + 0.02 * across**2) / 2
    for panel, place in zip(axes, ("same rate", "best rate"), strict=True):
        panel.contour(across, along, loss, levels=np.geomspace(0.005, 4, 8), colors=color("muted"), linewidths=0.5)
        for index, (name, item) in enumerate(data["ravine"][place].items()):
            path = np.asarray(item["path"])
            label = f"{name}, lr {item['lr']:.3g}"
            line = panel.plot(path[:, 1], path[:, 0], ".-", markersize=4, color=color(index), label=label)[0]
            tag(line, f"{place.split()[0]}-{index}", label)
        panel.set(title=f"At the {place}", ylabel="across", xlim=(-12, 14), ylim=(-2.4, 2.4))
        panel.legend(fontsize="small")
    axes[1].set_xlabel("along the ravine")
    return figure


def valley(data: Mapping[str, Any], ax: Sequence[Axes] | None = None) -> Figure:
    """Draw paths in Rosenbrock's valley, and the loss against the step."""
    figure, axes = new_figure("valley", 1, 2, size=(9.0, 4.2), ax=ax)
    a, b = np.meshgrid(np.linspace(-1.8, 1.8, 120), np.linspace(-0.8, 2.2, 120))
    _contour(axes[0], a, b, (1 - a) ** 2 + 100 * (b - a**2) ** 2, np.geomspace(0.1, 2000, 10))
    for index, (name, item) in enumerate(data["ravine"]["Rosenbrock"].items()):
        path = np.asarray(item["path"])
        line = axes[0].plot(path[:, 0], path[:, 1], ".-", markersize=2, linewidth=0.8, color=color(index))[0]
        tag(line, f"valley-{index}", name)
        loss = (1 - path[:, 0]) ** 2 + 100 * (path[:, 1] - path[:, 0] ** 2) ** 2
        label = f"{name}, lr {item['lr']:.2g}"
        line = axes[1].plot(np.arange(len(path)), loss, color=color(index), label=label)[0]
        tag(line, f"loss-{index}", label)
    axes[0].set(xlabel="a", ylabel="b", xlim=(-1.8, 1.8), ylim=(-0.8, 2.2))
    axes[1].set(xlabel="step", ylabel="loss", yscale="log", ylim=(1e-6, 100))
    axes[1].legend(fontsize="small")
    return figure


def saddle(data: Mapping[str, Any], ax: Sequence[Axes] | None = None) -> Figure:
    """Draw paths at the saddle, and the distance from it against the step."""
    figure, axes = new_figure("saddle", 1, 2, size=(9.0, 4.0), ax=ax)
    a, b = np.meshgrid(np.linspace(-0.6, 1.2, 100), np.linspace(-1.4, 1.4, 100))
    _contour(axes[0], a, b, a**2 / 2 + (b**2 - 1) ** 2 / 4, np.linspace(0.02, 1, 12))
    for index, (name, values) in enumerate(data["saddle"].items()):
        path = np.asarray(values)
        line = axes[0].plot(path[:, 0], path[:, 1], ".-", markersize=3, linewidth=0.8, color=color(index))[0]
        tag(line, f"saddle-{index}", name)
        line = axes[1].plot(np.arange(len(path)), np.abs(path[:, 1]), color=color(index), label=name)[0]
        tag(line, f"distance-{index}", name)
    axes[0].plot(0, 0, "x", color=color("ink"))
    axes[0].set(xlabel="a", ylabel="b")
    axes[1].axhline(0.5, color=color("muted"), linestyle="--", linewidth=0.8)
    axes[1].set(xlabel="step", ylabel="abs(b)", yscale="log")
    axes[1].legend(fontsize="small")
    return figure


def minima(data: Mapping[str, Any], ax: Axes | None = None) -> Figure:
    """Draw the share of minima among critical points against the dimension."""
    from dashpot.experiments.critical_points import MINIMA

    figure, (panel,) = new_figure("minima", size=(6.4, 3.4), ax=ax)
    n = [int(key) for key in data["minima"]]
    mean, low, high = np.asarray(list(data["minima"].values())).T
    bars = panel.errorbar(n, mean, [mean - low, high - mean], fmt="o-", color=color(0), label="measured")
    tag(bars[0], "measured", "measured")
    exact = panel.plot(list(MINIMA), list(MINIMA.values()), "x", color=color(1), label="exact")[0]
    tag(exact, "exact", "exact")
    panel.set(xlabel="dimension", ylabel="share of minima", yscale="log")
    panel.legend()
    return figure


def _contour(panel: Axes, x: Any, y: Any, z: Any, levels: Any) -> None:
    panel.contour(x, y, z, levels=levels, colors=color("muted"), linewidths=0.5)
