"""Figures of the experiment `numerators`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dashpot import figures as style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

RATES_NOTE = (
    "Training loss on the digits after 300 steps, geometric mean over seeds, against the learning rate. Dashed: the "
    "level below which a rate is usable. Right: numerator 3 next to the constant numerator with the same warm-up."
)
USABLE_NOTE = (
    "Largest usable learning rate for each seed, and the rate that is applied in the last step at this learning rate, "
    "the mean over the parameter tensors."
)
SCORES_NOTE = (
    "Accuracy minus that of the constant numerator at tuned rates, with joint 95 % intervals. Right of 0, the "
    "numerator is better."
)
LEVEL = 0.1
_LEFT = ("0", "1", "2", "3", "4")
_RIGHT = ("0", "0-warm", "3", "3-short")
_COLORED = (*_LEFT, "0-warm", "3-short")
"""Methods in the order of their colors, which are the same in both panels."""
_LABELS = {
    "0": "constant (0)",
    "1": "correlation (1)",
    "2": "Huber correlation (2)",
    "3": "moment (3)",
    "4": "Huber clipping (4)",
    "0-warm": "0 with warm-up",
    "0-warm-short": "0 with short warm-up",
    "3-short": "3 with beta_n .99",
    "0-long": "0, 1000 steps",
    "3-long": "3, 1000 steps",
}


def rates(data: Mapping[str, Any], ax: Sequence[Axes] | None = None) -> Figure:
    """Draw the loss against the learning rate."""
    figure, axes = style.new_figure("rates", 1, 2, size=(9.0, 3.8), ax=ax)
    for panel, names in zip(axes, (_LEFT, _RIGHT), strict=True):
        for name in (name for name in names if name in data["runs"]):
            item, index = data["runs"][name], _COLORED.index(name)
            losses = [min(loss, 10.0) for loss in item["losses"]]
            line = panel.plot(item["rates"], losses, "o-", markersize=3, color=style.color(index), label=_LABELS[name])[
                0
            ]
            style.tag(line, f"method-{name}", _LABELS[name])
        panel.axhline(LEVEL, color=style.color("muted"), linestyle="--", linewidth=0.8)
        panel.set(xscale="log", yscale="log", xlabel="learning rate")
        panel.legend(fontsize="small")
    axes[0].set_ylabel("training loss")
    return figure


def usable(data: Mapping[str, Any], ax: Axes | None = None) -> Figure:
    """Draw the largest usable rates of all seeds, and the rates applied there."""
    names = [name for name in _LABELS if name in data["runs"]]
    figure, (panel,) = style.new_figure("usable", size=(6.4, 4.2), ax=ax)
    for index, (key, label, shift) in enumerate(
        (("usable", "learning rate", 0.12), ("applied", "applied rate", -0.12))
    ):
        x = [rate for name in names for rate in data["runs"][name][key]]
        y = [len(names) - 1 - place + shift for place, name in enumerate(names) for _ in data["runs"][name][key]]
        points = panel.plot(x, y, "o", markersize=4, color=style.color(index), label=label)[0]
        style.tag(points, key, label)
    panel.set_yticks(range(len(names)), [_LABELS[name] for name in reversed(names)])
    panel.set(xscale="log", xlabel="rate")
    panel.legend(fontsize="small")
    return figure


def scores(data: Mapping[str, Any], ax: Axes | None = None) -> Figure:
    """Draw the differences of the accuracy from that of the constant numerator."""
    from dashpot.experiments.numerators import SCORES

    rows = {SCORES[name]: item for name, item in data["scores"].items()}
    figure, (panel,) = style.new_figure("scores", size=(6.4, 3.6), ax=ax)
    for place, (mean, low, high) in enumerate(reversed(rows.values())):
        color, name = (
            ("stable", "better")
            if low > 0
            else ("unstable", "worse")
            if high < 0
            else ("muted", "no significant difference")
        )
        bars = panel.errorbar(mean, place, xerr=[[mean - low], [high - mean]], fmt="o", color=style.color(color))
        style.tag(bars[0], color, name)
    panel.axvline(0, color=style.color("rule"), linewidth=1)
    panel.set_yticks(range(len(rows)), list(reversed(rows)))
    panel.set_xlabel("accuracy minus that of the constant numerator")
    return figure
