"""Figures of the experiment `parameter-changes`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dashpot import figures as style
from dashpot.figures.tags import slug

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

RESIDUALS_NOTE = (
    "Logistic loss, first seed: difference between recursion and measured change, per largest change of the step. "
    "First: with the output scale c_t. Second: as published. QHAdam has a varying pole, without published form."
)
RATES_NOTE = (
    "First layer of the digits network: median of the rates of the elements, and bands with the middle 50 % and 90 %. "
    "The bias correction makes the first rates of AdamW large; AutoSGM's numerator starts below lr."
)
BOUND_NOTE = "Logistic loss, AdamW, first seed: largest change, and largest elementwise bound."
PATHS_NOTE = (
    "Noisy quadratic, first seed: sum of the changes of the weights with the smallest and the largest curvature, from "
    "the start (circle)."
)


def residuals(data: Mapping[str, Any], ax: Sequence[Axes] | None = None) -> Figure:
    """Draw the errors of the exact and of the published recursion against the step."""
    figure, axes = style.new_figure("residuals", 1, 2, size=(8.6, 3.6), ax=ax)
    for panel, kind in zip(axes, ("exact", "published"), strict=True):
        for index, (method, curves) in enumerate(data["residuals"].items()):
            values = np.array(curves[kind], dtype=float)
            if np.isfinite(values).any():
                line = panel.plot(curves["step"], values, color=style.color(index), linewidth=0.9, label=method)[0]
                style.tag(line, slug(method), method)
        panel.set(xlabel="step", xscale="log", yscale="log", ylim=(1e-17, 10))
        panel.set_title("with c_t" if kind == "exact" else kind, loc="left")
    axes[0].legend(ncols=2)
    return figure


def rates(data: Mapping[str, Any], ax: Sequence[Axes] | None = None) -> Figure:
    """Draw the quantiles of the rates of a layer against the step."""
    figure, axes = style.new_figure("rates", 1, len(data["rates"]), size=(8.6, 3.4), ax=ax)
    for panel, (method, bands) in zip(axes, data["rates"].items(), strict=True):
        steps = np.arange(1, len(bands["median"]) + 1)
        shade = style.color("accent")
        panel.fill_between(steps, bands["low"], bands["high"], color=shade, alpha=0.15, linewidth=0)
        panel.fill_between(steps, bands["lower"], bands["upper"], color=shade, alpha=0.3, linewidth=0)
        style.tag(panel.plot(steps, bands["median"], color=shade, label="median")[0], "median")
        panel.set(xlabel="step", yscale="log")
        panel.set_title(f"alpha, {method}", loc="left")
    return figure


def bound(data: Mapping[str, Any], ax: Axes | None = None) -> Figure:
    """Draw the largest change and the largest bound against the step."""
    figure, (panel,) = style.new_figure("bound", size=(6.4, 3.4), ax=ax)
    looks: dict[str, Any] = {
        "change": {"color": style.color("accent")},
        "bound": {"color": style.color("unstable"), "linestyle": "--"},
    }
    for name, look in looks.items():
        values = data["bound"][name]
        style.tag(panel.plot(range(1, len(values) + 1), values, label=name, **look)[0], name)
    panel.set(xlabel="step", yscale="log")
    style.label_lines(panel)
    return figure


def paths(data: Mapping[str, Any], ax: Axes | None = None) -> Figure:
    """Draw the paths of two weights."""
    figure, (panel,) = style.new_figure("paths", size=(6.4, 4.4), ax=ax)
    for index, (method, (x, y)) in enumerate(data["paths"].items()):
        line = panel.plot(x, y, color=style.color(index), linewidth=1, label=method)[0]
        style.tag(line, slug(method), method)
    panel.plot(0, 0, marker="o", color=style.color("ink"), markerfacecolor=style.color("paper"))
    panel.set(xlabel="change of the weight with curvature .01", ylabel="change of the weight with curvature 1")
    panel.legend()
    return figure
