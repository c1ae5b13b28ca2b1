"""Figure of the experiment `rescaling`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dashpot.figures import color, new_figure, tag

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NOTE = (
    "Loss of the original problem, and after multiplication of the parameters by 8: with the rate of the law (dots, "
    "which are on the line of the original problem) and with an unchanged rate."
)
NAMES = {"original": "original problem", "law": "rescaled, law applied", "unchanged": "rescaled, unchanged rate"}


def losses(data: Mapping[str, Any], ax: Sequence[Axes] | None = None) -> Figure:
    """Draw the losses of original and rescaled problems, one panel for each class."""
    figure, axes = new_figure("losses", 1, len(data), size=(9.0, 3.2), ax=ax)
    for panel, (method, curves) in zip(axes, data.items(), strict=True):
        for index, (name, values) in enumerate(curves.items()):
            every = max(1, len(values) // 12) if name == "law" else 1
            style = "o" if name == "law" else "-"
            steps = np.arange(len(values))[::every]
            line = panel.plot(steps, values[::every], style, markersize=4, color=color(index), label=NAMES[name])[0]
            tag(line, name, NAMES[name])
        panel.set(title=method, xlabel="step", ylim=(0, None))
    axes[0].set_ylabel("loss")
    axes[0].legend(fontsize="small")
    return figure
