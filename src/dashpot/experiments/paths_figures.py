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
    "The first 25 steps from the same start, with a mark for every step in the upper panel. The minimum is at 0."
)
VALLEY_NOTE = "The first 400 steps of every method at its best rate, and the loss. The minimum is at (1, 1)."
MINIMA_NOTE = (
    "Critical points of all heights of isotropic Gaussian random functions, with 95 % intervals over seeds, and the "
    "exact shares in dimensions 1 to 3."
)


def ravine(data: Mapping[str, Any], ax: Sequence[Axes] | None = None) -> Figure:
    """Draw paths in the ravine at the same rate and at the best rates."""
    figure, axes = new_figure("ravine", 2, 1, size=(8.0, 6.0), ax=ax)
    along, across = np.meshgrid(np.linspace(-4, 11.5, 40), np.linspace(-2.4, 2.4, 25))
    loss = (across**2 + 0.02 * along**2) / 2
    for panel, place in zip(axes, ("same rate", "best rate"), strict=True):
        contour(panel, along, across, loss, [0.1, 0.4, 1, 2])
        for index, (name, item) in enumerate(data["ravine"][place].items()):
            path = np.asarray(item["path"])
            draw_path(panel, path[:, ::-1], index, name, marks=1 if place == "same rate" else None)
        rates = [f"{item['lr']:.3g}" for item in data["ravine"][place].values()]
        title = f"lr {rates[0]}; RMSprop and Adam: {rates[-1]}" if place == "same rate" else "Best rates"
        panel.set(title=title, ylabel="across", xlim=(-4, 11.5), ylim=(-2.4, 2.4))
    axes[0].legend(fontsize="small", loc="upper left")
    axes[1].set_xlabel("along the ravine")
    return figure


def valley(data: Mapping[str, Any], ax: Sequence[Axes] | None = None) -> Figure:
    """Draw paths in Rosenbrock's valley, and the loss against the step."""
    figure, axes = new_figure("valley", 1, 2, size=(9.0, 4.0), ax=ax)
    a, b = np.meshgrid(np.linspace(-1.8, 1.8, 60), np.linspace(-0.8, 2.2, 50))
    contour(axes[0], a, b, (1 - a) ** 2 + 100 * (b - a**2) ** 2, [1, 10, 100, 400])
    for index, (name, item) in enumerate(data["ravine"]["Rosenbrock"].items()):
        path = np.asarray(item["path"])
        draw_path(axes[0], path, index, name)
        loss = (1 - path[:, 0]) ** 2 + 100 * (path[:, 1] - path[:, 0] ** 2) ** 2
        series(axes[1], loss, index, name)
    axes[0].set(xlabel="a", ylabel="b", xlim=(-1.8, 1.8), ylim=(-0.8, 2.2))
    axes[1].set(xlabel="step", ylabel="loss", yscale="log", ylim=(1e-6, 100))
    axes[1].minorticks_off()
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


def contour(panel: Axes, x: Any, y: Any, z: Any, levels: Sequence[float]) -> None:
    """Draw level lines of a function."""
    panel.contour(x, y, z, levels=levels, colors=color("rule"), linewidths=0.5)


def draw_path(panel: Axes, path: Any, index: int, name: str, *, marks: int | None = None) -> None:
    """Draw a path, which pages toggle but whose values they do not show."""
    style = "-" if marks is None else ".-"
    line = panel.plot(
        path[:, 0], path[:, 1], style, markevery=marks, markersize=4, linewidth=1.1, color=color(index), label=name
    )[0]
    tag(line, f"method-{index}", name, role="path")


def series(panel: Axes, values: Any, index: int, name: str) -> None:
    """Draw values against the step."""
    line = panel.plot(np.arange(len(values)), values, color=color(index), label=name)[0]
    tag(line, f"method-{index}", name)
