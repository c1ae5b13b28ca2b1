"""Figures of stability: regions of settings, roots in the z plane, and the spectral radius over the product."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from dashpot.analysis.closed_loop import by_product, roots, spectral_radius
from dashpot.analysis.response_figure import coordinates, unit_circle, write_note
from dashpot.analysis.stability_regions import StabilityRegion, region_of
from dashpot.figures import color, label_lines, new_figure, tag

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from dashpot.analysis.quadratic_stability import Stability

_LEVELS = (0.5, 0.8, 0.9, 0.95, 0.99, 1.0)  # upper limits of the spectral radius of nested areas


def draw(result: Stability, ax: Axes | Sequence[Axes] | None) -> Figure:
    """Draw the stability of a recipe on two axes."""
    figure, axes = new_figure("Stability.plot", columns=2, size=(9.6, 3.8), ax=ax)
    section = result.form.filter
    if section is None or section.gain <= 0 or not section.is_stable:
        for panel in axes:
            write_note(panel, "Undefined for this recipe.")
    elif section.first_order is None:
        _radius_curve(axes[0], result)
        _roots(axes[1], result)
    else:
        for panel, kind in zip(axes, ("pole-product", "pole-zero"), strict=True):
            _region(panel, region_of(result.form, result.curvature, kind, result.denominator))
    return figure


def draw_region(region: StabilityRegion, ax: Axes | Sequence[Axes] | None) -> Figure:
    """Draw a region of settings on one axes."""
    figure, axes = new_figure("StabilityRegion.plot", size=(5.6, 4.0), ax=ax)
    _region(axes[0], region)
    return figure


def _region(panel: Axes, region: StabilityRegion) -> None:
    for level in _LEVELS:  # nested areas, darker where errors decay faster
        panel.contourf(
            region.poles, region.values, region.radius, levels=[-1.0, level], colors=[color("stable")], alpha=0.13
        )
    if region.critical is not None:
        _over_products(panel, region, region.critical)
    else:
        _over_zeros(panel, region)
    panel.set_xlabel("pole")
    panel.set_ylim(region.values[0], region.values[-1])
    label_lines(panel)
    pole, value = region.setting
    if value is None:
        panel.axvline(pole, color=color("accent"), linewidth=1.2, linestyle="--")
    else:
        mark = panel.scatter([pole], [value], s=55, color=color("accent"), edgecolors="white", zorder=4)
        tag(mark, "setting", "setting")


def _over_products(panel: Axes, region: StabilityRegion, critical: np.ndarray) -> None:
    panel.plot(region.poles, region.upper, color=color("unstable"), label="stability limit")
    panel.plot(region.poles, critical, color=color("muted"), linestyle="--", label="critical damping")
    panel.set_ylabel("rate x gain x curvature")
    panel.set_title(f"stable products, zero {region.zero:.4g}")


def _over_zeros(panel: Axes, region: StabilityRegion) -> None:
    for end, inside in (
        (region.lower, region.lower > region.values[0]),
        (region.upper, region.upper < region.values[-1]),
    ):
        [line] = panel.plot(region.poles, np.where(inside, end, np.nan), color=color("unstable"))
        tag(line, "stability-limit", "stability limit")
    panel.plot(region.poles, region.poles, color=color("muted"), label="zero = pole")
    panel.plot(region.poles, region.poles / (1 + region.poles), color=color("muted"), linestyle="--", label="Nesterov")
    panel.set_ylabel("zero")
    panel.set_title(f"stable zeros, effective rate x h {region.product:.4g}")


def _radius_curve(panel: Axes, result: Stability) -> None:
    """Draw the spectral radius over rate times curvature, of a filter of any order."""
    section, shrink = result.form.filter, result.form.shrink or 0.0
    assert section is not None
    products = np.linspace(0, 1.3 * (result.largest_product or 1.0), 200)
    family = by_product(section.reduced(), shrink)
    panel.plot(products, [spectral_radius(roots(family.at(float(s)))) for s in products], color=color(0))
    panel.axhline(1.0, color=color("unstable"), linestyle="--", linewidth=1.0)
    panel.set_xlabel("learning rate x curvature")
    panel.set_ylabel("spectral radius")
    panel.set_title("factor on an error per step")


def _roots(panel: Axes, result: Stability) -> None:
    """Draw the roots of the characteristic polynomial."""
    unit_circle(panel)
    points = panel.scatter(*coordinates(result.roots), marker="x", s=45, color=color("accent"), zorder=3)
    tag(points, "roots")
    panel.set_title("roots at the given curvature" if result.roots else "roots: no curvature given")
