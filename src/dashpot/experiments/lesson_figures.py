"""Figures of the experiment `lesson`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dashpot import figures as style
from dashpot.experiments import lesson as experiment
from dashpot.experiments.intervals import mean_interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TABLE_NOTE = (
    "Test accuracy of each row after its last epoch: mean over seeds with 95 % interval, single runs, and the "
    "published result of one run."
)
ORDER_NOTE = (
    "Difference of the accuracies of two rows with 95 % intervals that hold jointly for all pairs of rows, and the "
    "published difference. Right of 0, the first row is better, as stated by the lesson."
)


def table(data: Mapping[str, Any], ax: Axes | None = None) -> Figure:
    """Draw the accuracies of the rows next to the published ones."""
    figure, (panel,) = style.new_figure("table", size=(6.4, 3.8), ax=ax)
    found = experiment.last(data["accuracy"])
    for place, (key, values) in enumerate(reversed(found.items())):
        mean, low, high = mean_interval(values)
        named = place == 0
        runs = panel.plot(
            values, [place] * len(values), "|", color=style.color("muted"), label="runs" if named else None
        )[0]
        style.tag(runs, "runs", "runs")
        bars = panel.errorbar(
            mean,
            place,
            xerr=[[mean - low], [high - mean]],
            fmt="o",
            color=style.color(0),
            label="mean" if named else None,
        )
        style.tag(bars[0], "mean", "mean")
        point = panel.plot(
            experiment.published(key),
            place,
            "D",
            markersize=5,
            markerfacecolor="none",
            color=style.color(1),
            label="published" if named else None,
        )[0]
        style.tag(point, "published", "published")
    panel.set_yticks(range(len(found)), list(reversed(found)))
    panel.set(xlabel="test accuracy after the last epoch", ylabel="row")
    panel.legend(loc="upper left")
    return figure


def order(data: Mapping[str, Any], ax: Axes | None = None) -> Figure:
    """Draw the differences of the pairs of the lesson's order."""
    figure, (panel,) = style.new_figure("order", size=(6.4, 3.6), ax=ax)
    findings = experiment.order_findings(data["accuracy"])
    for place, finding in enumerate(reversed(findings)):
        decided = finding.low > 0 or finding.high < 0
        color, name = ("stable", "decided") if decided else ("muted", "undecided")
        bars = panel.errorbar(
            finding.measured,
            place,
            xerr=[[finding.measured - finding.low], [finding.high - finding.measured]],
            fmt="o",
            color=style.color(color),
        )
        style.tag(bars[0], name, name)
        point = panel.plot(
            finding.predicted or 0.0, place, "D", markersize=5, markerfacecolor="none", color=style.color(1)
        )[0]
        style.tag(point, "published", "published")
    panel.axvline(0, color=style.color("rule"), linewidth=1)
    panel.set_yticks(range(len(findings)), [finding.name.replace("-", " - ") for finding in reversed(findings)])
    panel.set(xlabel="difference of the accuracies")
    return figure
