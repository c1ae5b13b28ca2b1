"""Figures of the experiment `momentum-design-space`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from dashpot import figures as style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAP_NOTE = (
    "Measured factor per step by which errors change, for filters with pole .9 and unit DC gain; 1 and above is "
    "unstable. Line: predicted boundary. The top row, zero .9, is the plain gradient; zero 0 is the heavy ball."
)
DIGITS_NOTE = (
    "Training loss after 300 steps, mean over seeds, for each zero and learning rate. All filters have unit DC gain, "
    "so equal rates are equal effective rates."
)
_MAP = "cividis"  # uniform in brightness, also for color-blind readers


def radii(data: Mapping[str, Any], ax: Axes | None = None) -> Figure:
    """Draw the measured contraction over lr h and zero, with the predicted boundary."""
    figure, (panel,) = style.new_figure("radii", size=(6.4, 4.4), ax=ax)
    shown = data["map"]
    values = np.minimum(np.array(shown["radii"]), 1.2)
    x = [math.log10(product) for product in shown["products"]]
    zeros = shown["zeros"]
    half, step = (x[1] - x[0]) / 2, (zeros[1] - zeros[0]) / 2
    extent = (x[0] - half, x[-1] + half, zeros[0] - step, zeros[-1] + step)
    image = panel.imshow(values, origin="lower", aspect="auto", extent=extent, cmap=_MAP, vmin=0.4, vmax=1.2)
    bounds = [math.log10(value) for value in shown["boundary"]["product"]]
    line = panel.plot(bounds, shown["boundary"]["zero"], color=style.color("unstable"), linewidth=2)[0]
    style.tag(line, "boundary", "log10 of the largest stable lr h")
    panel.set(xlabel="log10 of lr h", ylabel="zero", xlim=extent[:2], ylim=extent[2:])
    panel.grid(False)
    figure.colorbar(image, ax=panel, label="factor per step", extend="both")
    return figure


def digits(data: Mapping[str, Any], ax: Axes | None = None) -> Figure:
    """Draw the training loss on the digits over rate and zero."""
    figure, (panel,) = style.new_figure("digits", size=(6.4, 4.0), ax=ax)
    rows = data["digits"]
    losses = np.array([row["loss"] for row in rows])
    image = np.log10(np.clip(losses, 1e-3, 10.0))
    panel.imshow(image, origin="lower", aspect="auto", cmap=_MAP, vmin=-3, vmax=1)
    for (row, column), loss in np.ndenumerate(losses):
        text = f"{loss:.2g}" if loss < 10 else "diverged"
        color = "#fefefe" if image[row, column] < -0.7 else "#101010"  # the same on dark pages
        panel.text(column, row, text, ha="center", va="center", fontsize=8, color=color)
    panel.set(xlabel="learning rate", ylabel="zero")
    panel.set_xticks(range(len(rows[0]["rates"])), [f"{rate:g}" for rate in rows[0]["rates"]])
    panel.set_yticks(range(len(rows)), [f"{row['zero']:.3g}" for row in rows])
    panel.grid(False)
    return figure
