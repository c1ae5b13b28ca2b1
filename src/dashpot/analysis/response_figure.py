"""Figure of a filter response: poles and zeros, impulse and step responses, gain over frequency."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from dashpot.figures import color, label_lines, new_figure, tag

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from dashpot.analysis.filter_response import Response

_FEWEST_STEPS, _MOST_STEPS = 12, 400


def draw(result: Response, ax: Axes | Sequence[Axes] | None) -> Figure:
    """Draw a response on three axes."""
    figure, axes = new_figure("Response.plot", columns=3, size=(9.6, 3.2), ax=ax)
    if result.form.filter is None:
        for panel in axes:
            write_note(panel, "The filter is undefined.")
        return figure
    pole_zero_map(axes[0], result.poles, result.zeros)
    _responses(axes[1], result)
    _gain(axes[2], result)
    return figure


def write_note(panel: Axes, text: str) -> None:
    """Write a sentence in the middle of empty axes."""
    panel.set_axis_off()
    panel.text(0.5, 0.5, text, ha="center", va="center", wrap=True, color=color("muted"), transform=panel.transAxes)


def unit_circle(panel: Axes) -> None:
    """Draw the unit circle of the z plane, inside which roots decay."""
    angle = np.linspace(0, 2 * math.pi, 121)
    panel.plot(np.cos(angle), np.sin(angle), color=color("rule"), linewidth=1.0)
    panel.set_aspect("equal", adjustable="datalim")
    panel.set_xlabel("real part of z")
    panel.set_ylabel("imaginary part of z")


def coordinates(roots: Sequence[complex]) -> tuple[list[float], list[float]]:
    """Return the real and imaginary parts of roots."""
    return [complex(z).real for z in roots], [complex(z).imag for z in roots]


def pole_zero_map(panel: Axes, poles: Sequence[complex], zeros: Sequence[complex]) -> None:
    """Draw poles as crosses and zeros as circles in the z plane."""
    unit_circle(panel)
    style = {"linestyle": "none", "markersize": 7, "markeredgewidth": 1.6, "fillstyle": "none"}
    for name, roots, marker, series in (("poles", poles, "x", 0), ("zeros", zeros, "o", 1)):
        panel.plot(*coordinates(roots), marker=marker, color=color(series), label=name, zorder=3, **style)
    panel.legend(loc="lower center", bbox_to_anchor=(0.5, 0.12))  # within the circle
    panel.set_title("poles and zeros")


def _responses(panel: Axes, result: Response) -> None:
    n = int(min(_MOST_STEPS, max(_FEWEST_STEPS, 4 * (result.time_constant or 0))))
    k, impulse = np.arange(n), result.impulse(n)
    panel.plot(k, impulse / (abs(impulse).max() or 1.0), color=color(0), label="impulse")
    panel.plot(k, result.step(n) / (result.dc_gain or 1.0), color=color(1), label="step")
    panel.set_xlabel("steps")
    panel.set_ylabel("share of maximum or DC gain")
    panel.set_title("impulse and step response")
    label_lines(panel)


def _gain(panel: Axes, result: Response) -> None:
    omega = np.geomspace(math.pi / 1000, math.pi, 120)
    [line] = panel.loglog(omega, abs(result.at(omega)), color=color(0))
    tag(line, "gain", "gain |H|")
    if result.half_power is not None:
        panel.axvline(result.half_power, color=color("muted"), linestyle="--", linewidth=1.0)
        panel.annotate(
            "half power",
            (result.half_power, 0.04),
            xycoords=("data", "axes fraction"),
            xytext=(-4, 0),
            textcoords="offset points",
            ha="right",
            color=color("muted"),
        )
    panel.set_xlabel("frequency in radians per step")
    panel.set_ylabel("gain |H|")
    panel.set_title("gain over frequency")
