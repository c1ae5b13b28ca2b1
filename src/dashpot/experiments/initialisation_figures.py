"""Figures of the experiment `initialisation`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dashpot import figures as style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SIZES_NOTE = "Root mean square of the outputs of the ReLU units before training, mean over seeds, by hidden layer."
SCORES_NOTE = (
    "Test accuracy with 95 % intervals over seeds, each combination at its selected rate. Of two points in a "
    "row, the upper one is without batch normalization, and the lower one with it."
)
DEAD_NOTE = (
    "Share of units without an output above 0.001 on any test image, after training at the highest rate without "
    "normalization, mean over seeds. Solid: constant rate; dashed: 1cycle."
)


def sizes(data: Mapping[str, Any], ax: Axes | None = None) -> Figure:
    """Draw the size of the outputs of each layer before training."""
    figure, (panel,) = style.new_figure("sizes", size=(6.4, 3.4), ax=ax)
    for index, (name, values) in enumerate(data["sizes"].items()):
        layers = range(1, len(values) + 1)
        line = panel.plot(layers, values, "o-", markersize=3, color=style.color(index), label=name)[0]
        style.tag(line, f"size-{name}", name)
    panel.set(xlabel="hidden layer", ylabel="root mean square", yscale="log")
    panel.legend()
    return figure


def scores(data: Mapping[str, Any], ax: Axes | None = None) -> Figure:
    """Draw the accuracies of all combinations."""
    figure, (panel,) = style.new_figure("scores", size=(6.4, 6.0), ax=ax)
    rows = [(item["initialization"], item["schedule"]) for item in data["scores"] if not item["normalized"]]
    names = list(dict.fromkeys(name for name, _ in rows))
    for item in data["scores"]:
        place = rows.index((item["initialization"], item["schedule"]))
        color = style.color(names.index(item["initialization"]))
        mean, low, high = item["interval"]
        y = place + (0.16 if item["normalized"] else -0.16)
        panel.plot([low, high], [y, y], "-", color=color, linewidth=1)
        words = f"{item['initialization']}, {item['schedule']}, {'with' if item['normalized'] else 'without'} norm"
        face = "none" if item["normalized"] else color
        point = panel.plot([mean], [y], "o", markersize=4, color=color, markerfacecolor=face)[0]
        style.tag(point, words.replace(", ", "-").replace(" ", "-"), words)
    panel.set(xlabel="test accuracy", yticks=range(len(rows)), yticklabels=[", ".join(row) for row in rows])
    panel.invert_yaxis()
    return figure


def dead(data: Mapping[str, Any], ax: Axes | None = None) -> Figure:
    """Draw the share of dead units of each layer after training."""
    figure, (panel,) = style.new_figure("dead", size=(6.4, 3.6), ax=ax)
    for index, (name, values) in enumerate(data["dead"].items()):
        marker = "o--" if name.endswith("1cycle") else "o-"
        layers = range(1, len(values) + 1)
        line = panel.plot(layers, values, marker, markersize=3, color=style.color(index // 2), label=name)[0]
        style.tag(line, f"dead-{name.replace(', ', '-')}", name)
    panel.set(xlabel="hidden layer", ylabel="share of dead units", ylim=(-0.02, 1.02))
    panel.legend(ncol=2)
    return figure
