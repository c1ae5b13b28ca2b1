"""Figure of a filter response: poles and zeros, impulse and step responses, gain over frequency."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from dashpot.figures import new_figure

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from dashpot.analysis.filter_response import Response

_MOST_STEPS = 400


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
    panel.text(0.5, 0.5, text, ha="center", va="center", wrap=True, transform=panel.transAxes)


def unit_circle(panel: Axes) -> None:
    """Draw the unit circle of the z plane, inside which roots decay."""
    angle = np.linspace(0, 2 * math.pi, 181)
    panel.plot(np.cos(angle), np.sin(angle), color="0.6", linewidth=0.8)
    panel.axhline(0, color="0.8", linewidth=0.6)
    panel.axvline(0, color="0.8", linewidth=0.6)
    panel.set_aspect("equal", adjustable="datalim")
    panel.set_xlabel("real part of z")
    panel.set_ylabel("imaginary part of z")


def coordinates(roots: Sequence[complex]) -> tuple[list[float], list[float]]:
    """Return the real and imaginary parts of roots."""
    return [complex(z).real for z in roots], [complex(z).imag for z in roots]


def pole_zero_map(panel: Axes, poles: Sequence[complex], zeros: Sequence[complex]) -> None:
    """Draw poles as crosses and zeros as circles in the z plane."""
    unit_circle(panel)
    panel.scatter(*coordinates(poles), marker="x", color="C0", label="poles", zorder=3)
    panel.scatter(*coordinates(zeros), marker="o", facecolors="none", edgecolors="C1", label="zeros", zorder=3)
    panel.set_title("poles (x) and zeros (o)")


def _responses(panel: Axes, result: Response) -> None:
    n = int(min(_MOST_STEPS, max(12, 4 * (result.time_constant or 0))))
    k = np.arange(n)
    scale = result.dc_gain or 1.0
    panel.plot(k, result.impulse(n) / abs(result.impulse(n)).max(), label="impulse, relative to its maximum")
    panel.plot(k, result.step(n) / scale, label="step, relative to the DC gain")
    panel.set_xlabel("steps")
    panel.set_title("response")
    panel.legend()


def _gain(panel: Axes, result: Response) -> None:
    omega = np.geomspace(math.pi / 1000, math.pi, 200)
    panel.loglog(omega, abs(result.at(omega)), label="gain")
    if result.half_power is not None:
        panel.axvline(result.half_power, color="0.6", linestyle="--", linewidth=0.8)
    panel.set_xlabel("frequency in radians per step")
    panel.set_title("gain |H|")
