"""Figures of the experiment `clipping`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from dashpot import figures as style
from dashpot.experiments.cliff import cliff_loss

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

GROWTH_NOTE = (
    "Root mean square of the gradient with respect to the state, relative to the last step: median and quartiles of 50 "
    "networks per seed; dashed: growth by the factor 1.2 per step."
)
TRAINING_NOTE = (
    "Median over seeds. A line ends at the step from which on the median network is not finite. The norm of the "
    "gradient is that before clipping."
)
CLIFF_NOTE = (
    "Loss of a recurrent network with one unit over its weight and bias. Descent moves along the cliff. Without "
    "clipping, one gradient at the cliff (step 124) throws the weight out of the picture, onto a plateau; with a "
    "clipped norm, every step is short."
)


def growth(data: Mapping[str, Any], ax: Axes | None = None) -> Figure:
    """Draw the size of the gradient against the number of steps back through time."""
    figure, (panel,) = style.new_figure("growth", size=(6.4, 3.4), ax=ax)
    shown = data["growth"]
    back = np.array(shown["back"])
    panel.fill_between(back, shown["lower"], shown["upper"], color=style.color(0), alpha=0.2, linewidth=0)
    for name in ("lower", "median", "upper"):
        words = name if name == "median" else f"{name} quartile"
        line = panel.plot(back, shown[name], color=style.color(0), linewidth=1.6 if name == "median" else 0.6)[0]
        style.tag(line, name, words)
    panel.plot(back, 1.2**back, "--", color=style.color("ink"), label="factor 1.2")
    panel.set(xlabel="steps back from the last", ylabel="size of the gradient", yscale="log")
    panel.legend()
    return figure


def training(data: Mapping[str, Any], ax: Sequence[Axes] | None = None) -> Figure:
    """Draw loss and gradient norm with and without clipping."""
    figure, panels = style.new_figure("training", 2, size=(6.4, 5.6), sharex=True, ax=ax)
    for panel, kind, label in zip(panels, ("losses", "norms"), ("loss", "gradient norm"), strict=True):
        for index, (name, item) in enumerate(data["training"].items()):
            values = [np.nan if value is None else value for value in item[kind]]
            steps = [5 * k for k in range(len(values))]
            marker = "x-" if sum(np.isfinite(values)) < 5 else "-"
            line = panel.plot(steps, values, marker, color=style.color(index), label=item["name"])[0]
            style.tag(line, f"{kind}-{name}", f"{label}, {item['name']}")
        panel.set(ylabel=label, yscale="log")
    panels[1].set_xlabel("step")
    panels[0].legend()
    return figure


def cliff(data: Mapping[str, Any], ax: Axes | None = None) -> Figure:
    """Draw the cliff of the loss and the paths of descent."""
    figure, (panel,) = style.new_figure("cliff", size=(6.4, 4.2), ax=ax)
    w, b = np.linspace(3.5, 7.5, 161), np.linspace(-4.2, -1.8, 121)
    grid = torch.meshgrid(torch.tensor(w), torch.tensor(b), indexing="xy")
    loss = cliff_loss(*grid).numpy()
    extent = (w[0], w[-1], b[0], b[-1])
    image = panel.imshow(loss, origin="lower", aspect="auto", extent=extent, cmap="cividis")
    for name, line_color, label in (("none", "#ff6a3d", "no clipping"), ("norm", "#12a5d8", "max_norm 0.1")):
        path = data["cliff"][name]
        line = panel.plot(path["w"], path["b"], ".-", color=line_color, markersize=3, linewidth=1, label=label)
        style.tag(line[0], f"path-{name}", label)
    panel.set(xlabel="weight", ylabel="bias", xlim=extent[:2], ylim=extent[2:])
    panel.grid(False)
    legend = panel.legend(loc="lower left", frameon=True)
    legend.get_frame().set_facecolor("#5c6672")
    for text in legend.get_texts():
        text.set_color("#fefefe")
    figure.colorbar(image, ax=panel, label="loss")
    return figure
