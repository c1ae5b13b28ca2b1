"""Figure of the temperature over the batch size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dashpot.analysis.batch_plan import scale_target
from dashpot.analysis.batch_rules import divides
from dashpot.analysis.batch_targets import RecipeTarget
from dashpot.errors import ArgumentError
from dashpot.figures import color, label_lines, new_figure, tag

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from dashpot.analysis.batch_scaling import BatchScaling


def draw_batch_scaling(result: BatchScaling, ax: Axes | Sequence[Axes] | None) -> Figure:
    """Draw the temperature relative to the old batch, for small rates and at a large curvature."""
    figure, (axes,) = new_figure("BatchScaling.plot", size=(6.4, 3.6), ax=ax)
    low, high = sorted((1.0, result.ratio))
    ratios = np.geomspace(low, high, 33)
    for index, (label, values) in enumerate(curves(result, ratios).items()):
        (line,) = axes.plot(result.from_batch * ratios, values, label=label, color=color(index))
        tag(line, label.replace(" ", "-"), label)
    curvature = large_curvature(result)
    if curvature is not None:
        ratios = np.geomspace(low, high, 17)
        values = [ratio_at(result, float(ratio), curvature) for ratio in ratios]
        (line,) = axes.plot(
            result.from_batch * ratios, values, label="at half the stable curvature", color=color("muted")
        )
        line.set_linestyle("--")
        tag(line, "large-curvature", f"{NAMES[result.rule]} at curvature {curvature:.4g}")
    binary_scales(axes)
    axes.set_ylabel("temperature")
    axes.set_title("Temperature relative to the old batch")
    label_lines(axes)
    return figure


def binary_scales(axes: Axes) -> None:
    """Use logarithmic axes of base 2, over the batch size."""
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:g}")
    axes.set_xlabel("batch size")


NAMES = {"linear": "linear rule", "sqrt": "square-root rule"}


def curves(result: BatchScaling, ratios: Any) -> dict[str, Any]:
    """Return the temperature by rule for small rates, relative to a ratio of 1, under the assumption of the result.

    The temperature is lr D sigma^2/(2 d B), and the denominator d is proportional to ratio^-s.
    """
    group = result.groups[0]
    if not math.isinf(group.scaling.noise):
        return _measured_curves(result, ratios)
    exponent = np.log(group.shrink) / np.log(result.ratio)
    progress = 1.0 if divides(group.before) or result.rule == "linear" else 0.5
    own, other = progress - exponent, {"linear": 0.5, "sqrt": 1.0}[result.rule]
    rates = {NAMES[result.rule]: own}
    if exponent in (0, 0.5):  # the second rule differs only in the rate
        rates[NAMES["sqrt" if result.rule == "linear" else "linear"]] = other
    rates["unchanged settings"] = 0.0
    return {label: ratios ** (rate + exponent - 1) for label, rate in rates.items()}


def _measured_curves(result: BatchScaling, ratios: Any) -> dict[str, Any]:
    """Return the temperature by rule at a measured noise scale."""
    group, noise = result.groups[0], result.groups[0].scaling.noise
    advance = (1 + noise) / (1 + noise / ratios)
    progress = group.scaling.progress
    exponent = 0.0 if math.isclose(progress, 1) else math.log(group.shrink) / math.log(progress)
    return {NAMES[result.rule]: advance / ratios, "unchanged settings": advance**exponent / ratios}


def large_curvature(result: BatchScaling) -> float | None:
    """Return half the largest curvature that is stable before and after the change, or None if it is undefined."""
    before, after = result.groups[0].stable_before, result.groups[0].stable_after
    if before is None or after is None or not 0 < min(before, after) < math.inf:
        return None
    return min(before, after) / 2


def ratio_at(result: BatchScaling, ratio: float, curvature: float) -> float:
    """Return the exact temperature of the rule at a batch `ratio` times as large, or NaN if it is undefined."""
    if math.isclose(ratio, 1):
        return 1.0
    group = result.groups[0]
    scaling = group.scaling._replace(ratio=ratio)
    try:
        return scale_target(RecipeTarget(group.before), scaling, is_forced=True).temperature_ratio(curvature)
    except ArgumentError:
        return math.nan
