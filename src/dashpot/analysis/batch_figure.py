"""Figure of the temperature over the batch size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dashpot.analysis.batch_rules import dc_gain
from dashpot.figures import color, label_lines, new_figure, tag

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from dashpot.analysis.batch_scaling import BatchScaling


def draw_batch_scaling(result: BatchScaling, ax: Axes | Sequence[Axes] | None) -> Figure:
    """Draw the temperature relative to the old batch, for small rates."""
    figure, (axes,) = new_figure("BatchScaling.plot", size=(6.4, 3.6), ax=ax)
    low, high = sorted((result.from_batch, result.to_batch))
    batches = np.geomspace(low, high, 65)
    for index, (label, values) in enumerate(curves(result, batches / result.from_batch).items()):
        (line,) = axes.loglog(batches, values, label=label, color=color(index))
        tag(line, label.replace(" ", "-"), label)
    axes.plot([result.from_batch, result.to_batch], [1, _small_rate(result)], "o", color=color("accent"))
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:g}")
    axes.set_xlabel("batch size")
    axes.set_ylabel("temperature")
    axes.set_title("Temperature relative to the old batch, for small rates")
    label_lines(axes)
    return figure


def curves(result: BatchScaling, ratios: Any) -> dict[str, Any]:
    """Return the temperature by rule, relative to a ratio of 1, under the assumption of the result's rule.

    The temperature is lr D sigma^2/(2 d B), and the denominator d is proportional to ratio^-s.
    """
    exponent = np.log(result.groups[0].shrink) / np.log(result.ratio)
    rates = {"linear rule": 1.0, "square-root rule": 0.5, "unchanged settings": 0.0}
    return {label: ratios ** (rate + exponent - 1) for label, rate in rates.items()}


def _small_rate(result: BatchScaling) -> float:
    """Return the temperature after the change relative to that before, for small rates."""
    group = result.groups[0]
    rate = float(group.recipe.lr) / float(group.before.lr) if group.before.lr else 1.0
    return rate * dc_gain(group.recipe) / dc_gain(group.before) * group.shrink / group.ratio
