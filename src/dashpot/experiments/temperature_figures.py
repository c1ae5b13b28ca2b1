"""Figures of the experiment `temperature`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dashpot import figures as style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

RATES_NOTE = (
    "Points: densities measured over all seeds. Lines: Gibbs distributions with T = lr/2, normal for a weight and "
    "gamma for the loss of ten weights."
)
WELLS_NOTE = (
    "First: density of the weight on a tilted double well at three temperatures; points measured, lines Gibbs. Second: "
    "crossings of the barrier, with the mean first passage time of the diffusion."
)
BARS_NOTE = (
    "Stationary loss with 95 % intervals over seeds (dots), and the closed form (rings). First: lr .02. Second: "
    "batches of 1, 4 and 16 at fixed lr, with lr = B lr0, and for the heavy ball with lr = (1 - mu) B lr0."
)
LEVELS_NOTE = (
    "Softmax regression on the digits; the rate is halved twice. The training loss contains the L2 penalty, the "
    "validation loss does not. Dashed: training loss predicted from the Hessian and the "
    "covariance of single gradients at the minimum."
)
STARTS_NOTE = (
    "Largest difference between the distribution functions of copies that start at w = -1 and at w = 1, ten standard "
    "deviations apart."
)
SNAPSHOTS_NOTE = "Training loss of a 64-32-10 network on the digits, with a usual and a high peak rate."


def rates(data: Mapping[str, Any], ax: Sequence[Axes] | None = None) -> Figure:
    """Draw the distributions of weight and loss at three rates."""
    figure, (weights, losses) = style.new_figure("rates", 2, size=(6.4, 5.6), ax=ax)
    shape = 5  # half the number of weights per model
    for index, (lr, item) in enumerate(data["rates"].items()):
        heat, color = item["temperature"], style.color(index)
        x = np.linspace(-0.6, 0.6, 97)
        _series(weights, item["weights"], x, np.exp(-(x**2) / (2 * heat)) / math.sqrt(2 * math.pi * heat), color, lr)
        x = np.linspace(0.001, 0.4, 121)
        gamma = x ** (shape - 1) * np.exp(-x / heat) / (math.gamma(shape) * heat**shape)
        _series(losses, item["losses"], x, gamma, color, lr)
    weights.set(xlabel="weight", ylabel="density")
    losses.set(xlabel="loss of ten weights", ylabel="density")
    weights.legend()
    return figure


def _series(panel: Axes, measured: Mapping[str, Any], x: Any, predicted: Any, color: str, lr: str) -> None:
    line = panel.plot(x, np.round(predicted, 4), color=color, label=f"lr {lr}")[0]
    style.tag(line, f"predicted-{lr}", f"predicted, lr {lr}")
    points = panel.plot(measured["x"], measured["density"], ".", color=color, markersize=4)[0]
    style.tag(points, f"measured-{lr}", f"measured, lr {lr}")


def wells(data: Mapping[str, Any], ax: Sequence[Axes] | None = None) -> Figure:
    """Draw the densities on the double well, and the rates of barrier crossing."""
    figure, (density, crossings) = style.new_figure("wells", 2, size=(6.4, 5.6), ax=ax)
    for index, (heat, item) in enumerate(data["wells"].items()):
        color = style.color(index)
        line = density.plot(item["grid"], item["gibbs"], color=color, label=f"T {heat}")[0]
        style.tag(line, f"gibbs-{heat}", f"Gibbs, T {heat}")
        points = density.plot(item["x"], item["density"], ".", color=color, markersize=4)[0]
        style.tag(points, f"density-{heat}", f"measured, T {heat}")
        mean, low, high, _ = item["escape"]
        crossings.errorbar(1 / float(heat), mean, [[mean - low], [high - mean]], fmt="o", color=color)
    inverse = [1 / float(heat) for heat in data["wells"]]
    line = crossings.plot(inverse, [item["escape"][3] for item in data["wells"].values()], color=style.color("muted"))
    style.tag(line[0], "predicted-crossings", "predicted crossings")
    density.set(xlabel="weight", ylabel="density")
    density.legend()
    crossings.set(xlabel="1/T", ylabel="crossings per unit of summed rate", yscale="log")
    return figure


def bars(data: Mapping[str, Any], ax: Sequence[Axes] | None = None) -> Figure:
    """Draw the stationary losses against momentum and batch size."""
    figure, (momentum, batch) = style.new_figure("bars", 2, size=(6.4, 5.6), ax=ax)
    _bars(momentum, data["momentum"])
    momentum.legend(loc="upper right")
    titles = {"fixed": "fixed lr", "scaled": "lr = B lr0", "momentum": "(1 - mu) B lr0"}
    rows = [{**row, "name": f"{titles[kind]}, {row['name']}"} for kind in titles for row in data["batches"][kind]]
    _bars(batch, rows)
    return figure


def _bars(panel: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    """Draw measured and predicted losses, one row for each setting, from top to bottom."""
    places = range(len(rows), 0, -1)
    predicted = [row["predicted"] for row in rows]
    panel.plot(predicted, places, "o", markersize=9, fillstyle="none", color=style.color("ink"), label="predicted")
    measured = [row["measured"] for row in rows]
    errors = [[row["measured"] - row["low"] for row in rows], [row["high"] - row["measured"] for row in rows]]
    points = panel.errorbar(
        measured, places, xerr=errors, fmt="o", markersize=4, color=style.color(0), label="measured"
    )
    style.tag(points[0], f"loss-{len(rows)}", "measured")
    panel.set(xscale="log", xlabel="stationary loss", yticks=list(places), ylim=(0.4, len(rows) + 0.6))
    panel.set_yticklabels([row["name"] for row in rows])
    marks = [digit * 10.0**power for power in range(-4, 0) for digit in (1, 2, 5)]
    marks = [mark for mark in marks if 0.8 * min(predicted) <= mark <= 1.2 * max(predicted)]
    panel.set_xticks(marks, [f"{mark:g}" for mark in marks])
    panel.minorticks_off()
    panel.grid(False, axis="y")


def levels(data: Mapping[str, Any], ax: Axes | None = None) -> Figure:
    """Draw the loss of softmax regression while the rate drops."""
    figure, (panel,) = style.new_figure("levels", size=(6.4, 3.8), ax=ax)
    shown = data["levels"]
    for name, width, index in (("train", 0.9, 0), ("validation", 1.8, 1)):
        line = panel.plot(shown["step"], shown[name], color=style.color(index), linewidth=width, label=name)[0]
        style.tag(line, name, f"{name} loss")
    for index, (rate, level) in enumerate(zip(shown["rates"], shown["predicted"], strict=True)):
        ends = (index * shown["phase"], (index + 1) * shown["phase"])
        label = "predicted train" if index == 0 else None
        panel.plot(ends, [level, level], "--", color=style.color("ink"), linewidth=1.2, label=label)
        panel.text(sum(ends) / 2, 0.02, f"lr {rate:g}", transform=panel.get_xaxis_transform(), ha="center")
    third = len(shown["step"]) // 3
    late = shown["train"][third:] + shown["validation"][third:]
    panel.set(xlabel="step", ylabel="loss", ylim=(min(late) - 0.03, max(late) + 0.06))
    panel.legend(loc="upper right")
    return figure


def starts(data: Mapping[str, Any], ax: Axes | None = None) -> Figure:
    """Draw the distance between the distributions from two starts."""
    figure, (panel,) = style.new_figure("starts", size=(6.4, 2.8), ax=ax)
    shown = data["starts"]
    line = panel.plot(shown["step"], shown["distance"], color=style.color(0))[0]
    style.tag(line, "distance", "distance")
    panel.set(xlabel="step", ylabel="Kolmogorov-Smirnov distance", ylim=(0, 1.05))
    return figure


def snapshots(data: Mapping[str, Any], ax: Axes | None = None) -> Figure:
    """Draw the training loss of networks with a cycling rate."""
    figure, (panel,) = style.new_figure("snapshots", size=(6.4, 3.2), ax=ax)
    for index, (name, item) in enumerate(data["snapshots"].items()):
        label = f"peak rate {item['lr']:g}"
        line = panel.plot(item["step"], item["loss"], color=style.color(index), label=label)[0]
        style.tag(line, name, label)
    panel.set(xlabel="step", ylabel="training loss", yscale="log")
    style.label_lines(panel)
    return figure
