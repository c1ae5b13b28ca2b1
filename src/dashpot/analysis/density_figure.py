"""Figure of the stationary density of a weight."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from dashpot.analysis.response_figure import write_note
from dashpot.figures import color, new_figure

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from dashpot.analysis.stationary_variance import Temperature


def draw(result: Temperature, ax: Axes | Sequence[Axes] | None) -> Figure:
    """Draw the stationary density and its limit for small rates on one axes."""
    figure, axes = new_figure("Temperature.plot", size=(5.6, 3.2), ax=ax)
    panel = axes[0]
    if result.variance is None or result.temperature is None or result.small_rate_temperature is None:
        write_note(panel, "There is no stationary density.")
        return figure
    width = 4 * math.sqrt(result.variance)
    w = np.linspace(-width, width, 241)
    small = result.variance * result.small_rate_temperature / result.temperature
    limit = np.exp(-(w**2) / (2 * small)) / math.sqrt(2 * math.pi * small)
    panel.plot(w, result.density(w), color=color(0), label="stationary density")
    panel.plot(w, limit, color=color("muted"), linestyle="--", label="limit of small rates")
    panel.set_xlabel("weight, relative to the minimum")
    panel.set_ylabel("density")
    panel.set_ylim(0, 1.4 * float(max(limit.max(), result.density(0.0))))  # room for the legend
    panel.locator_params(axis="x", nbins=4)
    panel.legend(loc="upper center")
    return figure
