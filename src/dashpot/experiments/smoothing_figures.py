"""Figures of the experiment `smoothing`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dashpot.figures import color, label_lines, new_figure, tag

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DIRECTIONS_NOTE = (
    "Cosine with the gradient of the loss smoothed by a normal distribution, whose standard deviation is that of the "
    "recent path, for beta 0.9. The mean is over coordinates and seeds."
)
DIGITS_NOTE = (
    "Mean cosines of batch gradients, plain (beta 0) and filtered, with 95 % intervals over seeds: with the gradient "
    "of the loss of all images averaged over the path, and with its gradient at the current point."
)
RIPPLE_NOTE = (
    "A rough loss along a path from the left to the right, and its averages over the path with the weights of the "
    "filter. A higher beta removes the ripple and delays the average."
)


def directions(data: Mapping[str, Any], ax: Sequence[Axes] | None = None) -> Figure:
    """Draw the cosines of filtered and plain gradients with the gradient of the smoothed loss."""
    shown = data["directions"]
    figure, axes = new_figure("directions", 1, len(shown), size=(9.0, 3.4), ax=ax)
    for panel, (lr, series) in zip(axes, shown.items(), strict=True):
        for index, (name, values) in enumerate(series.items()):
            line = panel.plot(np.arange(len(values)), values, color=color(index), label=f"{name} gradient")[0]
            tag(line, name, f"{name} gradient")
        panel.set(title=f"lr {lr}", xlabel="step", ylim=(-1.05, 1.05))
    axes[0].set_ylabel("cosine")
    axes[0].legend(loc="lower left")
    return figure


def digits(data: Mapping[str, Any], ax: Axes | None = None) -> Figure:
    """Draw the mean cosines on the digits for each beta."""
    from dashpot.experiments.intervals import mean_interval

    figure, (panel,) = new_figure("digits", size=(6.4, 3.4), ax=ax)
    betas = list(data["digits"])
    place = np.arange(len(betas))
    for index, name in enumerate(("averaged over the path", "at the point")):
        values = [mean_interval(item[index] for item in data["digits"][beta]) for beta in betas]
        mean, low, high = np.asarray(values).T
        bars = panel.errorbar(
            place + 0.08 * (index - 0.5), mean, [mean - low, high - mean], fmt="o", color=color(index), label=name
        )
        tag(bars[0], f"digits-{index}", name)
    panel.set(ylabel="cosine", xlabel="beta", ylim=(0, 1.05))
    panel.set_xticks(place, betas)
    panel.legend(loc="lower right")
    return figure


def ripple(data: Mapping[str, Any], ax: Axes | None = None) -> Figure:
    """Draw a rough loss and its averages along a path."""
    shown = data["ripple"]
    figure, (panel,) = new_figure("ripple", size=(7.2, 3.6), ax=ax)
    line = panel.plot(shown["w"], shown["loss"], color=color("muted"), linewidth=1, label="loss")[0]
    tag(line, "loss", "loss")
    for index, (beta, values) in enumerate(shown["averages"].items()):
        line = panel.plot(shown["w"], values, color=color(index), label=f"beta {beta}")[0]
        tag(line, f"beta-{index}", f"beta {beta}")
    panel.set(xlabel="w", ylabel="loss")
    label_lines(panel)
    return figure
