"""Figures of the dynamics of parameter changes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dashpot.constraints import Interval, check
from dashpot.errors import ArgumentError
from dashpot.figures import new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from dashpot.analysis.change_dynamics import TensorDynamics

_PANELS = (
    ("alpha", "rate |alpha|"),
    ("r", "ratio r"),
    ("e", "input |e|"),
    ("dw", "change |Dw|"),
)


def draw_dynamics(tensor: TensorDynamics, name: str, ax: Axes | Sequence[Axes] | None) -> Figure:
    """Draw the quantities of one tensor in four panels."""
    figure, axes = new_figure("Dynamics.plot", 2, 2, size=(8.0, 5.2), ax=ax)
    for panel, (quantity, label) in zip(axes, _PANELS, strict=True):
        values = getattr(tensor, quantity)
        _draw_bands(panel, tensor.steps, values if quantity == "r" else np.abs(values))
        if quantity != "r":
            _set_log(panel, values)
        panel.set_title(f"{label}, {name}", fontsize="medium", loc="left")
        panel.set_xlabel("step")
    axes[3].plot(tensor.steps, tensor.bound.max(axis=1), color="C3", linestyle="--", label="largest bound")
    axes[3].legend(frameon=False, fontsize="small")
    return figure


def _draw_bands(panel: Axes, steps: np.ndarray, values: np.ndarray) -> None:
    low, lower, median, upper, high = np.quantile(values, (0.05, 0.25, 0.5, 0.75, 0.95), axis=1)
    panel.fill_between(steps, low, high, color="C0", alpha=0.15, linewidth=0, label="90 % of the elements")
    panel.fill_between(steps, lower, upper, color="C0", alpha=0.3, linewidth=0, label="50 %")
    panel.plot(steps, median, color="C0", label="median")


def _set_log(panel: Axes, values: np.ndarray) -> None:
    if np.abs(values).max() > 0:
        panel.set_yscale("log", nonpositive="mask")


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
    panel.plot(*points.T, color="C0", linewidth=1, marker=".", markersize=3)
    panel.plot(*points[0], marker="o", color="C0", markerfacecolor="white")
    panel.annotate(f"before step {steps[0]}", points[0], textcoords="offset points", xytext=(6, 4), fontsize="small")
    panel.plot(*points[-1], marker="o", color="C0")
    panel.annotate(f"after step {steps[-1]}", points[-1], textcoords="offset points", xytext=(6, 4), fontsize="small")
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
