"""Figures of a watched run: each draws one measured quantity and its prediction on one axes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from dashpot.analysis.wording import number
from dashpot.figures import color, label_lines, new_figure, tag
from dashpot.figures.axes import new_panels
from dashpot.figures.literal import literal
from dashpot.utils.smoothing import smooth
from dashpot.watching import report_theory
from dashpot.watching.report_noise import ABSENT, noise_rows
from dashpot.watching.report_rows import (
    Curve,
    curve,
    loss_curve,
    median_curve,
    newest,
    reason_of,
    span_medians,
    tensor_curves,
)
from dashpot.watching.series import WatchRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_TENSORS = 4  # largest number of tensors in a figure
_SPANS = 80  # largest number of points of a line for one tensor; limits the size of pages
_MARKED = 40  # largest number of points with markers


class Panel(NamedTuple):
    """One axes of a report.

    Attributes:
        key: Identifier.
        title: Title of the axes.
        draw: Function of the record and the axes.
        missing: Function of the record that returns the reason for an empty panel, or None.
        note: Meaning of the lines, in one or two sentences.
    """

    key: str
    title: str
    draw: Callable[[WatchRecord, Axes], None]
    missing: Callable[[WatchRecord], str | None]
    note: str


def available(record: WatchRecord, panels: Sequence[Panel]) -> list[Panel]:
    """Return the panels with data."""
    return [panel for panel in panels if panel.missing(record) is None]


def draw(record: WatchRecord, ax: Axes | Sequence[Axes] | None = None) -> Figure:
    """Draw all panels with data on new or given axes."""
    panels = available(record, PANELS)
    figure, axes = new_panels("WatchReport.plot", max(1, len(panels)), size=(4.4, 3.0), ax=ax)
    _draw_all(record, panels, axes)
    if not panels:
        axes[0].set_axis_off()
        axes[0].text(0.5, 0.5, "Nothing has been measured.", ha="center", transform=axes[0].transAxes)
    return figure


def row_of(record: WatchRecord, panels: Sequence[Panel]) -> Figure:
    """Draw one or two panels side by side for a page."""
    figure, axes = new_figure("WatchReport.save", columns=len(panels), size=(2.6 + 3.5 * len(panels), 3.0))
    _draw_all(record, panels, axes)
    return figure


def _draw_all(record: WatchRecord, panels: Sequence[Panel], axes: Sequence[Axes]) -> None:
    for panel, own in zip(panels, axes, strict=False):
        panel.draw(record, own)
        own.set_title(panel.title)


# ---- panels ----------------------------------------------------------------------------------------------------------


def _loss(record: WatchRecord, ax: Axes) -> None:
    steps, losses = loss_curve(record)
    [points] = ax.plot(steps, losses, color=color("muted"), linewidth=0.6, alpha=0.7, label="batch loss")
    tag(points, "loss")
    [line] = ax.plot(steps, smooth(losses, max(1, len(losses) // 15)), color=color(0), label="trend")
    tag(line, "trend")
    _mark_warnings(record, ax)
    ax.set_xlabel("step")
    ax.set_ylabel("loss")
    _log_if_wide(ax, losses)
    label_lines(ax)


def _mark_warnings(record: WatchRecord, ax: Axes) -> None:
    """Draw the steps with warnings as triangles at the lower edge."""
    steps = [row["step"] for row in record.rows("warning")]
    if not steps:
        return
    low = ax.get_xaxis_transform()
    marks = ax.scatter(steps, [0.03] * len(steps), marker="^", s=28, color=color("unstable"), transform=low, zorder=4)
    marks.set_label("warning")
    tag(marks, "warning", role="mark")


def _stability(record: WatchRecord, ax: Axes) -> None:
    steps, ratios = curve(record, "curvature", "ratio")
    [line] = ax.plot(steps, ratios, color=color(0), label="measured", **_marker(steps))
    tag(line, "curvature")
    span = [min(steps, default=0), max(*steps, min(steps) + 1)]
    [edge] = ax.plot(span, [1.0, 1.0], color=color("unstable"), linestyle="--", label="edge")
    tag(edge, "edge", "edge of stability")
    ax.set_xlabel("step")
    ax.set_ylabel("rate x curvature / edge")
    _log_if_wide(ax, [*ratios, 1.0])
    label_lines(ax)


def _rates(record: WatchRecord, ax: Axes) -> None:
    nominal = _nominal_rates(record)
    drawn = [rate for _, values in nominal for rate in values]
    for index, (steps, rates) in enumerate(nominal):
        name = "nominal" if len(nominal) == 1 else f"group {index}"
        tag(ax.plot(steps, rates, color=color(index), label=name)[0], f"lr-{index}")
    for key, style in (("predicted", "--"), ("applied", "-")):
        steps, rates = median_curve(record, "dynamics", key, "rates")
        if steps:
            drawn += rates
            hue = color(len(nominal) + (key == "applied"))
            tag(ax.plot(steps, rates, style, color=hue, label=f"effective, {key}", **_marker(steps))[0], f"lr-{key}")
    ax.set_xlabel("step")
    ax.set_ylabel("learning rate")
    _log_if_wide(ax, drawn)
    label_lines(ax)


def _nominal_rates(record: WatchRecord) -> list[Curve]:
    """Return the learning rates of the first groups."""
    found: list[Curve] = []
    for row in record.rows("norms"):
        for index, rate in enumerate((row.get("lr") or [])[:_TENSORS]):
            if index == len(found):
                found.append(([], []))
            if isinstance(rate, (int, float)):
                found[index][0].append(row["step"])
                found[index][1].append(float(rate))
    return found


def _noise(record: WatchRecord, ax: Axes) -> None:
    rows = noise_rows(record)
    steps = [row.step for row in rows]
    top = 3 * max(value for row in rows for value in (row.scale, row.high or 0.0, row.batch))
    low, high = [row.low or np.nan for row in rows], [row.high or top for row in rows]  # without an upper end: the top
    band = ax.fill_between(steps, low, high, color=color(0), alpha=0.18, linewidth=0, label="95 % interval")
    tag(band, "noise-interval", role="band")
    scales = [row.scale for row in rows]
    tag(ax.plot(steps, scales, color=color(0), label="noise scale", **_marker(steps))[0], "noise")
    batches = [row.batch for row in rows]
    tag(ax.plot(steps, batches, color=color(1), linestyle="--", label="batch size")[0], "batch")
    _logarithmic(ax, "y")
    ax.set_ylim(top=top)
    ax.set_xlabel("step")
    ax.set_ylabel("examples")
    label_lines(ax)


def _fluctuation(record: WatchRecord, ax: Axes) -> None:
    top = 0.0
    for index, (name, style) in enumerate({"measured": "-", "predicted": "--"}.items()):
        steps, values = curve(record, "temperature", name)
        if steps:
            tag(ax.plot(steps, values, style, color=color(index), label=name, **_marker(steps))[0], name)
            top = max(top, *values)
    ax.set_xlabel("step")
    ax.set_ylabel("deviation of the loss")
    ax.set_ylim(0, 1.2 * top or 1)
    label_lines(ax)


def _norms(record: WatchRecord, ax: Axes) -> None:
    for index, (key, name) in enumerate({"weight": "weights", "grad": "gradient", "update": "update"}.items()):
        steps, values = span_medians(curve(record, "norms", key), 2 * _SPANS)
        tag(ax.plot(steps, _positive(values), color=color(index), label=name)[0], key)
    _logarithmic_over_steps(ax, "norm over all tensors")


def _ratios(record: WatchRecord, ax: Axes) -> None:
    steps, values = span_medians(curve(record, "norms", "ratio"), 2 * _SPANS)
    [line] = ax.plot(steps, _positive(values), color=color("ink"), linewidth=2.2, label="all tensors", zorder=3)
    tag(line, "ratio-all")
    for index, (name, (own, ratios)) in enumerate(_largest(tensor_curves(record, "norms", "ratio")).items()):
        own, ratios = span_medians((own, ratios), _SPANS)
        [line] = ax.plot(own, _positive(ratios), color=color(index), linewidth=1.0, label=literal(name))
        tag(line, f"ratio-{index}", name)
    _logarithmic_over_steps(ax, "norm of update / norm of weights")


def _largest(curves: dict[str, Curve]) -> dict[str, Curve]:
    """Return the tensors with the largest newest values."""
    order = sorted(curves, key=lambda name: -curves[name][1][-1])
    return {name: curves[name] for name in order[:_TENSORS]}


def _spectrum(record: WatchRecord, ax: Axes) -> None:
    row = newest(record, "spectrum", "step")
    assert row is not None
    tag(ax.plot(row["frequencies"], row["measured"], color=color(0), label="measured")[0], "measured")
    if row.get("response"):
        [line] = ax.plot(row["frequencies"], row["response"], color=color(1), linestyle="--", label="theory")
        tag(line, "response", "theory |H|²")
    _logarithmic(ax, "x")
    _logarithmic(ax, "y")
    ax.set_xlabel("frequency in radians per step")
    ax.set_ylabel("gain |H|²")
    label_lines(ax)


def _alpha(record: WatchRecord, ax: Axes) -> None:
    curves = tensor_curves(record, "dynamics", "alpha.1")
    for index, (name, (steps, values)) in enumerate(_spread(curves).items()):
        steps, values = span_medians((steps, values), _SPANS)
        [line] = ax.plot(steps, _positive(values), color=color(index), label=literal(name), **_marker(steps))
        tag(line, f"alpha-{index}", name)
    _logarithmic_over_steps(ax, "rate / denominator")


def _spread(curves: dict[str, Curve]) -> dict[str, Curve]:
    """Return the tensors with the largest, the middle and the smallest newest values."""
    order = sorted(curves, key=lambda name: -curves[name][1][-1])
    chosen = dict.fromkeys([order[0], order[len(order) // 2], order[-1]])
    return {name: curves[name] for name in chosen}


# ---- scales and reasons ----------------------------------------------------------------------------------------------


def _marker(steps: Sequence[int]) -> dict[str, Any]:
    """Return the markers of a line with few points."""
    return {"marker": "o", "markersize": 3} if len(steps) <= _MARKED else {}


def _positive(values: Sequence[float]) -> list[float]:
    """Replace zeros, which logarithmic axes cannot show, by NaN."""
    return [value if value > 0 else np.nan for value in values]


def _logarithmic_over_steps(ax: Axes, quantity: str) -> None:
    """Label the axes of a quantity over steps, on a logarithmic scale, and its lines."""
    _logarithmic(ax, "y")
    ax.set_xlabel("step")
    ax.set_ylabel(quantity)
    label_lines(ax)


def _logarithmic(ax: Axes, name: str) -> None:
    """Use a logarithmic axis with decimal labels; matplotlib's formulas take most of the time of a page."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    getattr(ax, f"set_{name}scale")("log")
    axis = getattr(ax, f"{name}axis")
    low, high = axis.get_view_interval()
    if high < 4 * low:  # few ticks, or none
        low, high = low / 2, high * 2
        getattr(ax, f"set_{name}lim")(low, high)
    subs = (1.0,) if high > 60 * low else (1.0, 2.0, 5.0)
    axis.set_major_locator(LogLocator(subs=subs, numticks=8))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))


def _log_if_wide(ax: Axes, values: Sequence[float]) -> None:
    """Use a logarithmic axis for positive values over more than a factor of 10, else a linear one from 0."""
    if values and min(values) > 0 and max(values) > 10 * min(values):
        _logarithmic(ax, "y")
    elif values and min(values) >= 0:
        ax.set_ylim(0, 1.08 * max(values) or 1)


def _without(kind: str, *paths: str, absent: str) -> Callable[[WatchRecord], str | None]:
    """Return a function that returns the reason if no row of a kind has all paths."""
    return lambda record: None if newest(record, kind, *paths) is not None else reason_of(record, kind, absent)


def _without_tensors(kind: str, key: str, absent: str) -> Callable[[WatchRecord], str | None]:
    return lambda record: None if tensor_curves(record, kind, key) else reason_of(record, kind, absent)


def _without_rates(record: WatchRecord) -> str | None:
    return None if _nominal_rates(record) else "The learning rate was not recorded."


def _without_alpha(record: WatchRecord) -> str | None:
    curves = tensor_curves(record, "dynamics", "alpha.1")
    if any(len(steps) > 1 for steps, _ in curves.values()):
        return None
    reason = reason_of(record, "dynamics", "The dynamics have not been measured yet.")
    return "The rates have been measured at one step only." if curves else reason


def _without_spectrum(record: WatchRecord) -> str | None:
    row = record.rows("spectrum").last
    if row is not None and row.get("frequencies") and row.get("measured"):
        return None
    return reason_of(record, "spectrum", "The spectrum of the gradients has not been measured yet.")


LOSS = Panel(
    "loss",
    "loss and its trend",
    _loss,
    lambda record: None if loss_curve(record)[0] else "The loss is unknown: pass it to `watcher.observe`.",
    "Means of eight batch losses, their centred moving average, and the steps with warnings.",
)
FLUCTUATION = Panel(
    "temperature",
    "fluctuation of the loss",
    _fluctuation,
    _without("temperature", "measured", absent="The fluctuation of the loss has not been measured yet."),
    "Standard deviation of the batch loss around its trend, and its prediction from noise, curvature and settings.",
)
STABILITY = Panel(
    "stability",
    "distance from the edge of stability",
    _stability,
    _without("curvature", "ratio", absent=report_theory.ABSENT),
    "Largest eigenvalue of rate times preconditioned curvature, divided by its largest stable value.",
)
RATES = Panel(
    "rates",
    "learning rate",
    _rates,
    _without_rates,
    "Nominal rate with its schedule, and the effective rate: change over unit-gain filtered gradient and denominator.",
)
NOISE = Panel(
    "noise",
    "gradient noise scale",
    _noise,
    lambda record: None if noise_rows(record) else reason_of(record, "noise", ABSENT),
    "Batch size at which noise and signal of the gradient are equal, with its 95 % interval, in units of the rates for "
    "methods with denominators.",
)
NORMS = Panel(
    "norms",
    "norms",
    _norms,
    _without("norms", "grad", absent="No norms: the optimizer has made no step yet."),
    "Euclidean norms over all tensors.",
)
RATIOS = Panel(
    "ratios",
    "relative change per step",
    _ratios,
    _without_tensors("norms", "ratio", "The ratio of update to weight is unknown."),
    "Norm of the update over the norm of the weights: in all, and for the tensors with the largest values.",
)
SPECTRUM = Panel(
    "spectrum",
    "filter response",
    _spectrum,
    _without_spectrum,
    "Squared gain from gradients to updates over the frequency, and the response of the filter.",
)
ALPHA = Panel(
    "alpha",
    "elementwise rate",
    _alpha,
    _without_alpha,
    "Mean of learning rate over denominator, for the tensors with the largest, the median and the smallest value.",
)
PANELS = (LOSS, FLUCTUATION, STABILITY, RATES, NOISE, NORMS, RATIOS, SPECTRUM, ALPHA)
GROUPS: dict[str, tuple[Panel, ...]] = {
    "Loss": (LOSS, FLUCTUATION),
    "Stability": (STABILITY, RATES),
    "Noise": (NOISE,),
    "Norms": (NORMS, RATIOS),
    "Filter and rate": (SPECTRUM, ALPHA),
}
"""Panels of a page by section."""
