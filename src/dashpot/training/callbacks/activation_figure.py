"""Figure of recorded activation statistics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from dashpot.figures import new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LABELS = {
    "mean": "mean",
    "std": "standard deviation",
    "zeros": "share of outputs near zero",
    "dead": "share of dead units",
}
COLUMNS = 2


def draw(
    steps: Sequence[int],
    values: Mapping[str, Mapping[str, Sequence[float]]],
    histograms: Mapping[str, np.ndarray],
    limits: tuple[float, float],
    ax: Sequence[Axes] | None = None,
) -> Figure:
    """Return a figure with four panels of statistics, and one histogram panel per layer.

    Args:
        steps: Recorded steps in ascending order.
        values: Statistics by layer and name, with one value per step.
        histograms: Counts by layer, of shape (bins, steps).
        limits: Lower and upper limit of the histograms.
        ax: Axes to draw on, two per row; None for a new figure.
    """
    rows = 2 + -(-len(histograms) // COLUMNS)
    figure, axes = new_figure("Activations.plot", rows, COLUMNS, size=(9.6, 2.3 * rows), ax=ax)
    _draw_statistics(axes[:4], steps, values)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right upper", frameon=False, title="layer")
    for panel, (layer, counts) in zip(axes[4:], histograms.items(), strict=False):
        _draw_histogram(panel, layer, steps, counts, limits)
    for panel in axes[4 + len(histograms) :]:
        panel.set_visible(False)
    return figure


def _draw_statistics(
    axes: Sequence[Axes], steps: Sequence[int], values: Mapping[str, Mapping[str, Sequence[float]]]
) -> None:
    from matplotlib import colormaps

    colors = colormaps["viridis"](np.linspace(0.0, 0.9, len(values)))
    for ax, (name, label) in zip(axes, LABELS.items(), strict=True):
        for color, (layer, statistics) in zip(colors, values.items(), strict=True):
            ax.plot(
                steps, statistics[name], color=color, linewidth=1.2, label=layer, marker="." if len(steps) == 1 else ""
            )
        ax.set_title(label)
        ax.set_xlabel("step")
        if name in ("zeros", "dead"):
            ax.set_ylim(-0.02, 1.02)


def _draw_histogram(
    ax: Axes, layer: str, steps: Sequence[int], counts: np.ndarray, limits: tuple[float, float]
) -> None:
    width = (steps[-1] - steps[0]) / max(len(steps) - 1, 1) or 1
    extent = (steps[0] - width / 2, steps[-1] + width / 2, *limits)
    ax.imshow(np.log1p(counts), origin="lower", aspect="auto", extent=extent, interpolation="nearest", cmap="viridis")
    ax.grid(visible=False)
    edges, used = np.linspace(*limits, len(counts) + 1).tolist(), np.flatnonzero(counts.any(axis=1)).tolist()
    if used:
        ax.set_ylim(edges[used[0]], edges[used[-1] + 1])
    ax.set_title(f"histogram of layer {layer}")
    ax.set_xlabel("step")
    ax.set_ylabel("output")
