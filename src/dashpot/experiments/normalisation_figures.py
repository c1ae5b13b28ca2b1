"""Figures of the experiment `normalisation`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dashpot import figures as style
from dashpot.experiments import normalisation as experiment
from dashpot.experiments.intervals import mean_interval
from dashpot.experiments.normalisation_runs import RMS, SD, VARIANCE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

RATIO_NOTE = (
    "Final loss of (2), the gradient over its variance, divided by that of (1), the gradient over its root mean "
    "square: geometric mean over seeds and 95 % interval, each at its own tuned learning rate. Right of 1, (1) is "
    "better. Known: with the true variance and standard deviation. Later: after 200 steps at a rate of zero."
)
RATES_NOTE = (
    "Mean final loss of the runs that choose the learning rate, against the rate divided by the best one of each "
    "method. Division by the variance from the first step has the narrowest range of good rates."
)
_ROWS = (
    ("sd 1, known", "sd 1", "known variance", "known sd"),
    ("sd 1", "sd 1", VARIANCE, RMS),
    ("sd 1, later", "sd 1", f"{VARIANCE}, later", f"{RMS}, later"),
    ("sd sqrt(h), known", "sd sqrt(h)", "known variance", "known sd"),
    ("sd sqrt(h)", "sd sqrt(h)", VARIANCE, RMS),
    ("sd sqrt(h), later", "sd sqrt(h)", f"{VARIANCE}, later", f"{RMS}, later"),
    ("sd h, known", "sd h", "known variance", "known sd"),
    ("sd h", "sd h", VARIANCE, RMS),
    ("sd h, later", "sd h", f"{VARIANCE}, later", f"{RMS}, later"),
    ("digits, eps 1e-8", "digits", VARIANCE, RMS),
    ("digits, tuned eps", "digits", f"{VARIANCE}, tuned eps", f"{RMS}, tuned eps"),
)


def ratio(data: Mapping[str, Any], ax: Axes | None = None) -> Figure:
    """Draw the ratio of the losses of (2) and (1) on each problem."""
    figure, (panel,) = style.new_figure("ratio", size=(6.4, 4.2), ax=ax)
    for place, (_, problem, first, second) in enumerate(reversed(_ROWS)):
        mean, low, high = map(math.exp, mean_interval(experiment.ratio(data[problem][first], data[problem][second])))
        color, name = (
            ("unstable", "(1) is better")
            if low > 1
            else ("stable", "(2) is better")
            if high < 1
            else ("muted", "no significant difference")
        )
        bars = panel.errorbar(mean, place, xerr=[[mean - low], [high - mean]], fmt="o", color=style.color(color))
        style.tag(bars[0], color, name)
    panel.axvline(1, color=style.color("rule"), linewidth=1)
    panel.set_yticks(range(len(_ROWS)), [label for label, *_ in reversed(_ROWS)])
    panel.set(xscale="log", xlabel="loss of (2) over loss of (1)")
    return figure


def rates(data: Mapping[str, Any], ax: Sequence[Axes] | None = None) -> Figure:
    """Draw the loss against the learning rate for two laws of the noise and for the digits."""
    names = {"sd sqrt(h)": "noise: sd sqrt(h)", "sd h": "noise: sd h"}
    names["digits"] = "digits, eps 1e-8"
    figure, axes = style.new_figure("rates", 1, 3, size=(9.0, 3.4), ax=ax)
    for panel, (problem, title) in zip(axes, names.items(), strict=True):
        for index, direction in enumerate((RMS, SD, VARIANCE)):
            found = data[problem][direction]
            places = [rate / found["rate"] for rate in found["rates"]]
            losses = [min(loss, 1e3) for loss in found["tuning"]]
            line = panel.plot(places, losses, "o-", markersize=4, color=style.color(index), label=direction)[0]
            style.tag(line, f"direction-{index}", direction)
        panel.set(xscale="log", yscale="log", title=title, xlabel="rate / best rate")
        panel.set_xlim(0.02, 50)
    axes[0].set_ylabel("final loss")
    axes[0].legend()
    return figure
