"""Figures of stability: regions of settings, roots in the z plane, and the spectral radius over the product."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from dashpot.analysis.border_labels import label_borders
from dashpot.analysis.closed_loop import by_product, roots, spectral_radius
from dashpot.analysis.response_figure import coordinates, unit_circle, write_note
from dashpot.analysis.result import text_of
from dashpot.analysis.stability_regions import StabilityRegion, product_of, region_of
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
    borders = _areas(panel, region)
    panel.set_xlim(region.poles[0], region.poles[-1])
    if region.critical is not None:
        _over_products(panel, region, region.critical)
    else:
        _over_zeros(panel, region)
    panel.set_xlabel("pole")
    label_lines(panel)
    known = [np.array(line.get_xydata(), dtype=float) for line in panel.lines]
    label_borders(panel, _LEVELS[:-1], borders, [*known, _setting(panel, region)])


def _setting(panel: Axes, region: StabilityRegion) -> np.ndarray:
    """Mark the setting, as a line if its value is unknown, or as an arrow above the axes; return the marked points."""
    pole, value = region.setting
    if value is None:
        line = panel.axvline(pole, color=color("accent"), linewidth=1.2, linestyle="--")
        tag(line, "setting", "pole of the setting")
        return np.column_stack((np.full(len(region.values), pole), region.values))
    top = float(region.values[-1])
    mark = panel.scatter([pole], [min(value, top)], s=55, marker="o" if value <= top else "^", zorder=4, clip_on=False)
    mark.set(facecolor=color("accent"), edgecolor="white")
    tag(mark, "setting", "setting" if value <= top else f"setting, at {text_of(value)}")
    if value > top:
        text = panel.annotate(f"at {text_of(value)}", (pole, top), xytext=(-7, 0), textcoords="offset points")
        text.set(ha="right", va="top", color=color("accent"))
    return np.array([[pole, min(value, top)]])


def _areas(panel: Axes, region: StabilityRegion) -> list[np.ndarray]:
    """Draw nested areas, darker where errors decay faster; return the points of their borders."""
    grid = region.poles, region.values, region.radius
    areas = [panel.contourf(*grid, levels=[-1.0, level], colors=[color("stable")], alpha=0.13) for level in _LEVELS]
    return [np.concatenate([*area.allsegs[0], np.empty((0, 2))]) for area in areas[:-1]]


def _over_products(panel: Axes, region: StabilityRegion, critical: np.ndarray) -> None:
    [limit] = panel.plot(region.poles, region.upper, color=color("unstable"), label="limit")
    tag(limit, "stability-limit", "stability limit")
    panel.text(0.03, 0.96, "unstable", va="top", color=color("unstable"), transform=panel.transAxes)
    [damping] = panel.plot(region.poles, critical, color=color("muted"), linestyle="--", label="critical")
    tag(damping, "critical-damping", "critical damping")
    panel.set_ylim(region.values[0], region.values[-1])
    panel.set_ylabel("learning rate x gain x curvature")
    panel.set_title(f"spectral radius, zero {text_of(region.zero)}")


def _over_zeros(panel: Axes, region: StabilityRegion) -> None:
    for end, inside in (
        (region.lower, region.lower > region.values[0]),
        (region.upper, region.upper < region.values[-1]),
    ):
        [line] = panel.plot(region.poles, np.where(inside, end, np.nan), color=color("unstable"))
        tag(line, "stability-limit", "stability limit")
    panel.plot(region.poles, region.poles, color=color("muted"), linewidth=1.0, label="zero = pole")
    panel.plot(region.poles, region.poles / (1 + region.poles), color=color("muted"), linestyle="--", label="Nesterov")
    panel.set_ylim(region.values[0], region.values[-1] + 0.05 * (region.values[-1] - region.values[0]))
    panel.set_ylabel("zero")
    panel.set_title(f"spectral radius, effective lr x h = {text_of(region.product)}")


def _radius_curve(panel: Axes, result: Stability) -> None:
    """Draw the spectral radius over rate times curvature, of a filter of any order."""
    section, shrink = result.form.filter, result.form.shrink or 0.0
    assert section is not None
    product = product_of(result.form, result.curvature, result.denominator)
    products = np.linspace(0, max(1.3 * (result.largest_product or 1.0), 1.1 * (product or 0.0)), 200)
    family = by_product(section.reduced(), shrink)

    def radius(s: float) -> float:
        return spectral_radius(roots(family.at(s)))

    [line] = panel.plot(products, [radius(float(s)) for s in products], color=color(0))
    tag(line, "spectral-radius", "spectral radius")
    limit = panel.axhline(1.0, color=color("unstable"), linewidth=1.6)
    tag(limit, "stability-limit", "stability limit")
    if product is not None:
        mark = panel.scatter([product], [radius(product)], s=55, color=color("accent"), edgecolors="white", zorder=4)
        tag(mark, "setting", "setting")
    panel.set_xlabel("learning rate x curvature")
    panel.set_ylabel("spectral radius")
    panel.set_title("factor on an error per step, stable below 1")


def _roots(panel: Axes, result: Stability) -> None:
    """Draw the roots of the characteristic polynomial."""
    unit_circle(panel)
    points = panel.scatter(*coordinates(result.roots), marker="x", s=45, color=color("accent"), zorder=3)
    tag(points, "roots")
    at = f" at curvature {text_of(result.curvature)}" if result.roots else ": no curvature given"
    panel.set_title(f"roots{at}")
