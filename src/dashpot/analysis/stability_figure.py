"""Figures of stability: regions of settings, roots in the z plane, and the spectral radius over the product."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from dashpot.analysis.closed_loop import by_product, roots, spectral_radius
from dashpot.analysis.response_figure import coordinates, unit_circle, write_note
from dashpot.analysis.stability_regions import StabilityRegion, region_of
from dashpot.figures import new_figure

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from dashpot.analysis.quadratic_stability import Stability

_LEVELS = (0.0, 0.5, 0.8, 0.9, 0.95, 0.99, 1.0)


def draw(result: Stability, ax: Axes | Sequence[Axes] | None) -> Figure:
    """Draw the stability of a recipe on two axes."""
    figure, axes = new_figure("Stability.plot", columns=2, size=(9.6, 3.6), ax=ax)
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
    panel.contourf(region.poles, region.values, region.radius, levels=_LEVELS, cmap="Blues_r", alpha=0.7)
    panel.contour(region.poles, region.values, region.radius, levels=[1.0], colors="C0", linewidths=1.5)
    pole, value = region.setting
    if region.critical is not None:
        panel.plot(region.poles, region.critical, color="C1", linestyle="--", linewidth=1.2)
        panel.set_ylabel("learning rate x gain x curvature")
        panel.set_title(f"stable settings, zero {region.zero:.4g}")
    else:
        panel.plot(region.poles, region.poles, color="0.6", linewidth=0.8)
        panel.set_ylabel("zero")
        panel.set_title(f"stable settings, effective rate x curvature {region.product:.4g}")
    panel.set_xlabel("pole")
    panel.set_ylim(region.values[0], region.values[-1])
    if value is None:
        panel.axvline(pole, color="C3", linewidth=1.0)
    else:
        panel.plot([pole], [value], marker="o", color="C3", markeredgecolor="white", markersize=8)


def _radius_curve(panel: Axes, result: Stability) -> None:
    """Draw the spectral radius over rate times curvature, of a filter of any order."""
    section, shrink = result.form.filter, result.form.shrink or 0.0
    assert section is not None
    highest = 1.3 * (result.largest_product or 1.0)
    products = np.linspace(0, highest, 200)
    family = by_product(section.reduced(), shrink)
    panel.plot(products, [spectral_radius(roots(family.at(float(s)))) for s in products])
    panel.axhline(1.0, color="0.6", linestyle="--", linewidth=0.8)
    panel.set_xlabel("learning rate x curvature")
    panel.set_title("factor on an error per step")


def _roots(panel: Axes, result: Stability) -> None:
    """Draw the roots of the characteristic polynomial."""
    unit_circle(panel)
    panel.scatter(*coordinates(result.roots), marker="x", color="C3", zorder=3)
    panel.set_title("roots" if result.roots else "roots: no curvature given")
