"""Figures of the experiment `esgd`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dashpot import figures as style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

RATES_NOTE = (
    "Training loss on the digits after 300 steps, geometric mean over seeds, against the learning rate: plain ESGD, "
    "ESGD-M and two of its parts on the left, settings of the momentum without curvature on the right."
)
RATIOS_NOTE = (
    "Ratio of training losses, each method at its tuned rate, with the 95 % interval of each pair alone. Left of 1, "
    "the first method is better."
)
RATIOS = {
    "ratio-momentum": "plain ESGD + Nesterov / plain ESGD",
    "ratio-warm-up": "plain ESGD + warm-up / plain ESGD",
    "ratio-average": "plain ESGD + moving average / plain ESGD",
    "ratio-ESGD-M": "ESGD-M / plain ESGD",
    "ratio-ESGD-M version 2": "ESGD-M version 2 / plain ESGD",
    "ratio-ESGD-M EMA": "ESGD-M, v 1 / plain ESGD",
    "ratio-ESGD-M QHM": "ESGD-M, .999, v .7 / plain ESGD",
    "ESGD-M QHM over ESGD-M": "ESGD-M, .999, v .7 / ESGD-M",
    "ESGD-M QHM over ESGD-M EMA": "ESGD-M, .999, v .7 / ESGD-M, v 1",
    "QHM over SGD": "QHM .999, .7 / plain descent",
    "QHM over EMA": "QHM .999, .7 / averaged momentum",
    "QHM over Nesterov": "QHM .999, .7 / Nesterov momentum",
}
"""Labels of the ratios."""
_LEFT = ("plain", "momentum", "warm-up", "ESGD-M")
_RIGHT = ("SGD", "EMA", "Nesterov", "QHM")


def rates(data: Mapping[str, Any], ax: Sequence[Axes] | None = None) -> Figure:
    """Draw the loss against the learning rate."""
    figure, axes = style.new_figure("rates", 1, 2, size=(9.0, 3.8), ax=ax)
    for panel, names in zip(axes, (_LEFT, _RIGHT), strict=True):
        for name in (name for name in names if name in data["runs"]):
            item, index = data["runs"][name], (*_LEFT, *_RIGHT).index(name)
            losses = [min(loss, 10.0) for loss in item["losses"]]
            line = panel.plot(item["rates"], losses, "o-", markersize=3, color=style.color(index), label=name)[0]
            style.tag(line, f"method-{name.replace(' ', '-')}", name)
        panel.set(xscale="log", yscale="log", xlabel="learning rate")
        panel.legend(fontsize="small")
    axes[0].set_ylabel("training loss")
    return figure


def ratios(data: Mapping[str, Any], ax: Axes | None = None) -> Figure:
    """Draw the ratios of the losses with their intervals."""
    rows = {RATIOS[name]: item for name, item in data["ratios"].items()}
    figure, (panel,) = style.new_figure("ratios", size=(6.4, 4.2), ax=ax)
    for place, (mean, low, high) in enumerate(reversed(rows.values())):
        color, name = (
            ("stable", "the first is better")
            if high < 1
            else ("unstable", "the second is better")
            if low > 1
            else ("muted", "no significant difference")
        )
        bars = panel.errorbar(mean, place, xerr=[[mean - low], [high - mean]], fmt="o", color=style.color(color))
        style.tag(bars[0], color, name)
    panel.axvline(1, color=style.color("rule"), linewidth=1)
    panel.set_yticks(range(len(rows)), list(reversed(rows)))
    panel.set(xscale="log", xlabel="ratio of training losses")
    return figure
