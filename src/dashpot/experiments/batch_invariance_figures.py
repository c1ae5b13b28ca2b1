"""Figures of the experiment `batch-invariance`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dashpot import figures as style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CURVES_NOTE = (
    "Training loss of SGD, mean over seeds, against the number of examples seen. First: rate of batch 32 for all "
    "batches. Second: rates of scale_batch, lr = B lr0."
)
RANGE_NOTE = (
    "Final training loss relative to batch 32 with 95 % intervals over seeds, with scale_batch, for two rates. Left "
    "of the dashed line, the rule is stated to hold; the dotted lines are the margin of 3 %. Differences above 30 % "
    "are drawn at 30 %."
)
GROWTH_NOTE = (
    "Training loss, mean over seeds: the rate falls by 4 after each third of the examples, or the batch grows by 4."
)
_TOP = 0.3


def curves(data: Mapping[str, Any], ax: Sequence[Axes] | None = None) -> Figure:
    """Draw the training loss against examples seen, without and with scaled rates."""
    figure, panels = style.new_figure("curves", 2, size=(6.4, 6.0), sharex=True, ax=ax)
    titles = ("unchanged rate", "rate of scale_batch")
    for panel, suffix, title in zip(panels, ("-unscaled", ""), titles, strict=True):
        for index, batch in enumerate([32, *data["batches"]]):
            item = data["curves"][f"sgd-{batch}{suffix if batch > 32 else ''}"]
            line = panel.plot(
                _thousands(item),
                item["loss"][1:],
                "o-",
                markersize=2.5,
                color=style.color(index),
                label=f"B {batch}",
            )[0]
            style.tag(line, f"sgd-{batch}{suffix}", f"batch {batch}, {title}")
        panel.set(ylabel=f"loss, {title}", yscale="log")
    panels[1].set(xlabel="thousands of examples seen")
    panels[1].legend()  # its lines coincide, which leaves space
    return figure


def limits(data: Mapping[str, Any], ax: Axes | None = None) -> Figure:
    """Draw the difference of final losses against the product of rate and curvature."""
    figure, (panel,) = style.new_figure("limits", size=(6.4, 3.6), ax=ax)
    for index, (key, rate) in enumerate((("sgd", 0.003), ("sgd-high", 0.03))):
        products, differences = [], []
        for batch in data["batches"]:
            value, low, high = (min(number, _TOP) for number in data["differences"][f"{key}-{batch}"])
            products.append(rate * batch / 32 * data["curvature"])
            differences.append(value)
            panel.plot([products[-1]] * 2, [low, high], "-", color=style.color(index), linewidth=1)
        line = panel.plot(
            products, differences, "o-", markersize=4, color=style.color(index), label=f"lr {rate:g} at batch 32"
        )[0]
        style.tag(line, key, f"lr {rate:g} at batch 32")
    panel.axvline(0.2, linestyle="--", linewidth=0.8, color=style.color("muted"))
    for margin in (-0.03, 0.03):
        panel.axhline(margin, linestyle=":", linewidth=0.8, color=style.color("muted"))
    panel.set(xlabel="B lr0 h", ylabel="relative difference of loss", xscale="log")
    panel.legend()
    return figure


def growth(data: Mapping[str, Any], ax: Axes | None = None) -> Figure:
    """Draw the loss with a falling rate, with a growing batch, and with neither."""
    figure, (panel,) = style.new_figure("growth", size=(6.4, 3.6), ax=ax)
    rows = (
        ("sgd-high-32", "constant"),
        ("growth-decayed", "rate falls by 4 twice"),
        ("growth-grown", "batch grows by 4 twice"),
    )
    for index, (key, words) in enumerate(rows):
        item = data["curves"][key]
        marker = "x--" if key == "growth-grown" else "o-"
        line = panel.plot(
            _thousands(item), item["loss"][1:], marker, markersize=4, color=style.color(index), label=words
        )[0]
        style.tag(line, key, words)
    panel.set(xlabel="thousands of examples seen", ylabel="loss", yscale="log")
    panel.legend()
    return figure


def _thousands(item: Mapping[str, Any]) -> list[float]:
    """Return the examples seen at each measurement but the first, in thousands."""
    return [count / 1000 for count in item["examples"][1:]]
