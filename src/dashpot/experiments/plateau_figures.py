"""Figures of the experiment `plateau`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dashpot.experiments.paths_figures import contour, draw_path, series
from dashpot.figures import color, new_figure, tag

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SADDLE_NOTE = (
    "First: the first 300 steps from the same start at lr 0.02, one mark for every 25 steps. Second: distance from the "
    "saddle along its descending direction; the dashed line is the level at which a run has left the saddle."
)
RATES_NOTE = (
    "Steps to leave the saddle and the plateaus of the network, mean over seeds, against the rate as a multiple of the "
    "default rate of each method. Rates at which a run does not leave, or returns, have no point."
)
EVERY = 25
"""Steps between the marks of a path."""


def saddle(data: Mapping[str, Any], ax: Sequence[Axes] | None = None) -> Figure:
    """Draw paths at the saddle, and the distance from it against the step."""
    figure, axes = new_figure("saddle", 1, 2, size=(9.0, 4.0), ax=ax)
    a, b = np.meshgrid(np.linspace(-0.6, 1.2, 40), np.linspace(-1.4, 1.4, 40))
    contour(axes[0], a, b, a**2 / 2 + (b**2 - 1) ** 2 / 4, [0.02, 0.1, 0.2, 0.3, 0.6])
    for index, (name, values) in enumerate(data["paths"].items()):
        path = np.asarray(values)
        draw_path(axes[0], path, index, name, marks=EVERY)
        series(axes[1], np.abs(path[:, 1]), index, name)
    axes[0].plot(0, 0, "x", color=color("ink"))
    axes[0].set(xlabel="a", ylabel="b")
    axes[1].axhline(0.5, color=color("muted"), linestyle="--", linewidth=0.8)
    axes[1].set(xlabel="step", ylabel="abs(b)", yscale="log")
    axes[1].minorticks_off()
    axes[1].legend(fontsize="small")
    return figure


def rates(data: Mapping[str, Any], ax: Sequence[Axes] | None = None) -> Figure:
    """Draw the steps to leave the saddle and the plateau against the rate."""
    figure, axes = new_figure("rates", 1, 3, size=(9.0, 3.8), ax=ax)
    titles = {"saddle": "Saddle", "short": "Network, short plateau", "long": "Network, long plateau"}
    for panel, (problem, title) in zip(axes, titles.items(), strict=True):
        for index, (name, steps) in enumerate(data[problem].items()):
            means = [math.nan if None in row else max(1.0, sum(row) / len(row)) for row in steps]
            line = panel.plot(data["factors"], means, "o-", markersize=3, color=color(index), label=name)[0]
            tag(line, f"method-{index}", name)
        panel.set(title=title, xscale="log", yscale="log", xlabel="rate / default rate")
        panel.minorticks_off()
    axes[0].set_ylabel("steps")
    axes[2].legend(fontsize="small")
    return figure
