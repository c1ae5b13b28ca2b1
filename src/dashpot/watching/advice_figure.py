"""Figure of advice: steps and examples for the same progress over the batch size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from dashpot.analysis.batch_figure import binary_scales
from dashpot.analysis.response_figure import write_note
from dashpot.figures import color, label_lines, new_figure, tag
from dashpot.watching.advice_noise import progress

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from dashpot.watching.advice import Advice


def draw_advice(result: Advice, ax: Axes | Sequence[Axes] | None) -> Figure:
    """Draw both costs relative to the present batch, with bands from the interval of the noise scale."""
    figure, (axes,) = new_figure("Advice.plot", size=(6.4, 3.6), ax=ax)
    if result.noise is None or result.old is None:
        write_note(axes, "The noise scale is unknown.")
        return figure
    ends = sorted((result.old, result.batch))
    batches = np.geomspace(ends[0] / 2, ends[1] * 4, 65)
    for index, name in enumerate(("steps", "examples")):
        low, middle, high = (
            [_cost(name, scale, result.old, batch) for batch in batches]
            for scale in (result.noise.low, result.noise.scale, result.noise.high)
        )
        (line,) = axes.plot(batches, middle, label=name, color=color(index))
        tag(line, name, f"{name} for the same progress")
        axes.fill_between(batches, low, high, color=color(index), alpha=0.15, linewidth=0)
    axes.axvline(result.batch, color=color("muted"), linewidth=1.0, linestyle="--")
    binary_scales(axes)
    axes.set_ylabel("relative to the present batch")
    axes.set_title("Cost of the same progress")
    label_lines(axes)
    return figure


def _cost(name: str, scale: float, old: float, batch: float) -> float:
    advance = progress(scale, old, batch)
    return 1 / advance if name == "steps" else batch / old / advance if math.isfinite(advance) else math.nan
