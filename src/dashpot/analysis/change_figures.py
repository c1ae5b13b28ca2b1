"""Figures of the dynamics of parameter changes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dashpot.constraints import Interval, check
from dashpot.errors import ArgumentError
from dashpot.figures import color, label_lines, new_figure, tag

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from dashpot.analysis.change_dynamics import TensorDynamics

_PANELS = {"alpha": "rate alpha", "r": "ratio r of successive rates", "e": "input |e|", "dw": "change |Dw|"}


def draw_dynamics(tensor: TensorDynamics, name: str, ax: Axes | Sequence[Axes] | None) -> Figure:
    """Draw the quantities of one tensor in four panels."""
    figure, axes = new_figure("Dynamics.plot", 2, 2, size=(8.4, 5.4), ax=ax)
    for number, (panel, (quantity, title)) in enumerate(zip(axes, _PANELS.items(), strict=True)):
        values = getattr(tensor, quantity)
        values = values if quantity == "r" else np.abs(values)
        _draw_bands(panel, tensor.steps, values)
        if values.max() > 0 and quantity != "r":
            panel.set_yscale("log", nonpositive="mask")
        panel.set_title(title if ax is not None or number else f"{title}, {name}", loc="left")
        panel.set_xlabel("step")
    bound = axes[3].plot(tensor.steps, tensor.bound.max(axis=1), color=color("unstable"), linestyle="--", label="bound")
    tag(bound[0], "bound")
    for panel in axes:
        label_lines(panel)
    if ax is None:
        layout: Any = figure.get_layout_engine()
        layout.set(wspace=0.08)  # room for labels
        figure.supxlabel("bands: 50 % and 90 % of the elements", fontsize="small", color=color("muted"))
    return figure


def _draw_bands(panel: Axes, steps: np.ndarray, values: np.ndarray) -> None:
    """Draw the median, the middle 50 % and 90 %, and the largest of the elements."""
    low, lower, median, upper, high = np.quantile(values, (0.05, 0.25, 0.5, 0.75, 0.95), axis=1)
    shade = color("accent")
    panel.fill_between(steps, low, high, color=shade, alpha=0.15, linewidth=0)
    panel.fill_between(steps, lower, upper, color=shade, alpha=0.3, linewidth=0)
    lines = panel.plot(steps, median, color=shade, label="median")
    lines += panel.plot(steps, values.max(axis=1), color=color("muted"), linewidth=0.8, label="largest")
    for line in lines:
        tag(line, str(line.get_label()))


def draw_path(path: np.ndarray, steps: np.ndarray, i: int | None, j: int | None, ax: Axes | None) -> Figure:
    """Draw a path, with one row per point, in two of its coordinates or in its two leading principal directions."""
    owner = "Dynamics.plot_path"
    if (i is None) != (j is None):
        raise ArgumentError(f"{owner}: i and j must be given together, got i={i} and j={j}.")
    if path.shape[1] < 2:
        raise ArgumentError(f"{owner}: the path must have at least 2 elements, got {path.shape[1]}.")
    if i is None or j is None:
        points, labels = _principal(path)
    else:
        for name, index in (("i", i), ("j", j)):
            check(owner, name, index, Interval(0, path.shape[1], "left", integer=True))
        points = path[:, [i, j]]
        labels = [f"change of element {index}" for index in (i, j)]
    figure, (panel,) = new_figure(owner, size=(5.0, 4.2), ax=ax)
    [line] = panel.plot(*points.T, color=color("accent"), linewidth=1, marker=".", markersize=3)
    tag(line, "path", "path")
    for point, text, fill in (
        (points[0], f"before step {steps[0]}", "paper"),
        (points[-1], f"after step {steps[-1]}", "accent"),
    ):
        panel.plot(*point, marker="o", color=color("accent"), markerfacecolor=color(fill))
        panel.annotate(text, point, textcoords="offset points", xytext=(7, 5), color=color("ink"), fontsize=9)
    panel.set_xlabel(labels[0])
    panel.set_ylabel(labels[1])
    return figure


def _principal(path: np.ndarray) -> tuple[Any, list[str]]:
    """Return the coordinates of the path along its two leading principal directions, and their labels."""
    centred = path - path.mean(axis=0)
    _, sizes, directions = np.linalg.svd(centred, full_matrices=False)
    total = float((sizes**2).sum()) or 1.0
    shares = [100 * float(size**2) / total for size in sizes[:2]]
    labels = [f"direction {n} ({share:.0f} % of the variation)" for n, share in enumerate(shares, 1)]
    return path @ directions[:2].T, labels
