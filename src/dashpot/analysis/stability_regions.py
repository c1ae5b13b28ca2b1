"""Regions of stable settings: pole and learning rate times curvature, or pole and zero."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dashpot.analysis.closed_loop import by_product, stable_range
from dashpot.analysis.linear_form import LinearForm, linear_form
from dashpot.analysis.quadratic_stability import (
    check_denominator,
    check_range,
    critical_product,
    total_curvature,
    usable_rate,
)
from dashpot.analysis.rational_filter import RationalFilter
from dashpot.analysis.result import Analysis, Quantity, text_of
from dashpot.constraints import POSITIVE, OneOf, Optional, check
from dashpot.errors import ArgumentError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Grid = NDArray[np.float64]
_AXES = ("pole-product", "pole-zero")
_POLES, _VALUES = 101, 121  # points of the grid
_LARGEST_POLE = 0.995
_ZEROS = (-1.5, 0.99)


@dataclass(frozen=True, repr=False)
class StabilityRegion(Analysis):
    """Result of `stability_region`.

    Attributes:
        axes: "pole-product" or "pole-zero".
        poles: Poles, the x axis.
        values: Products rate * gain * curvature, or zeros: the y axis.
        radius: Spectral radius of each point, with the shape (len(values), len(poles)); stable below 1.
        lower, upper: Ends of the stable interval of y for each pole, clipped to `values`; NaN without one.
        critical: For "pole-product", the product of critical damping of each pole, NaN without one; otherwise None.
        zero: For "pole-product", the zero of the filter; otherwise None.
        product: For "pole-zero", effective learning rate times curvature; otherwise None.
        setting: The point (pole, value) of the recipe; the value is None if it requires an unknown curvature or rate.
    """

    axes: str
    poles: Grid
    values: Grid
    radius: Grid
    lower: Grid
    upper: Grid
    critical: Grid | None
    zero: float | None
    product: float | None
    setting: tuple[float, float | None]

    def summary(self) -> str:
        """Return the axes and the stable share of the region."""
        share = float((self.radius < 1).mean())
        pole, value = self.setting
        if self.axes == "pole-product":
            fixed, name = f"zero {text_of(self.zero)}", "learning rate times gain times curvature"
        else:
            fixed, name = f"effective learning rate times curvature {text_of(self.product)}", "zero"
        setting = f"The setting has the pole {text_of(pole)}"
        setting += "." if value is None else f" and the {name} {text_of(value)}."
        return f"{share:.0%} of the region of {self.axes.replace('-', ' and ')} is stable for {fixed}. {setting}"

    def quantities(self) -> list[Quantity]:
        """Return the fixed setting, the marked setting and the stable share."""
        return [
            Quantity("setting", list(self.setting), "pole, and value on the other axis"),
            Quantity("zero", self.zero, "zero of all points"),
            Quantity("product", self.product, "effective learning rate times curvature of all points"),
            Quantity("stable_share", float((self.radius < 1).mean()), "share of the points that are stable"),
        ]

    def plot(self, ax: Axes | Sequence[Axes] | None = None) -> Figure:
        """Draw the region with the setting marked."""
        from dashpot.analysis.stability_figure import draw_region

        return draw_region(self, ax)


def stability_region(
    recipe: Any,
    curvature: float | None = None,
    axes: str = "pole-product",
    *,
    denominator: float | None = None,
    step: int | None = None,
) -> StabilityRegion:
    """Compute the spectral radius over two settings, with the other settings of a recipe.

    Args:
        recipe: A recipe with a filter of first order, or an optimizer whose groups have the same settings.
        curvature: Curvature > 0, as in `stability`. None: for "pole-product", the setting has no value on the y axis;
            for "pole-zero", effective learning rate times curvature is 1.
        axes: "pole-product": x is the pole, and y is rate * gain * (h + coupled decay)/d at the zero of the recipe.
            "pole-zero": x is the pole, and y is the zero, at constant effective learning rate times curvature.
        denominator, step: As in `stability`.

    Raises:
        ArgumentError: If an argument is out of range, or the recipe has no filter of first order.

    Example:
        >>> import dashpot as dp
        >>> region = stability_region(dp.HeavyBall.recipe_for(lr=0.1, momentum=0.9), curvature=10.0)
        >>> region.setting, region.upper[:1]
        ((0.9, 1.0), array([2.]))
    """
    check("stability_region", "curvature", curvature, Optional(POSITIVE))
    check_range("stability_region", "curvature", curvature)
    check("stability_region", "axes", axes, OneOf(_AXES))
    form = linear_form(recipe, "stability_region", step)
    check_denominator("stability_region", form, denominator)
    return region_of(form, curvature, axes, denominator)


def region_of(form: LinearForm, curvature: float | None, axes: str, denominator: float | None) -> StabilityRegion:
    """Return the region of a linear form."""
    point = None if form.filter is None else form.filter.first_order
    if point is None or point[2] <= 0:
        raise ArgumentError(f"stability_region: the recipe must have a filter of first order. {_obstacle(form)}")
    product = product_of(form, curvature, denominator)
    shrink = form.shrink or 0.0
    poles = np.linspace(min(0.0, 1.1 * point[0]), max(_LARGEST_POLE, (1 + point[0]) / 2), _POLES)
    if axes == "pole-product":
        return _over_products(poles, point, shrink, product)
    return _over_zeros(poles, point, shrink, product)


def _obstacle(form: LinearForm) -> str:
    """Return the reason why a form has no region of first-order settings."""
    if form.filter is None:
        return " ".join(form.reasons)
    if form.filter.first_order is None:
        return f"The filter has order {form.filter.order}."
    return "The gain of the filter is not positive."


def product_of(form: LinearForm, curvature: float | None, denominator: float | None) -> float | None:
    """Return rate (h + coupled decay)/d, or None if one of them is unknown."""
    rate = usable_rate(form)
    if curvature is None or rate is None:
        return None
    return rate * total_curvature(form, curvature, denominator)


def _over_products(
    poles: Grid, point: tuple[float, float, float], shrink: float, product: float | None
) -> StabilityRegion:
    pole, zero, gain = point
    sections = [RationalFilter((zero,), (float(p),)) for p in poles]
    bounds = np.array([stable_range(by_product(section, shrink)) or (np.nan, np.nan) for section in sections])
    critical = [critical_product(section, shrink) for section in sections]
    highest = 1.15 * float(np.nanmax([*bounds[:, 1], 0.1]))
    if product is not None:
        highest = min(max(highest, 1.15 * product * gain), 4 * highest)
    values = np.linspace(0, highest, _VALUES)
    return StabilityRegion(
        axes="pole-product",
        poles=poles,
        values=values,
        radius=radius_of(poles[None, :], zero, values[:, None], shrink),
        lower=np.maximum(bounds[:, 0], 0.0),
        upper=bounds[:, 1],
        critical=np.array([np.nan if item is None else item for item in critical]),
        zero=zero,
        product=None,
        setting=(pole, None if product is None else product * gain),
    )


def _over_zeros(
    poles: Grid, point: tuple[float, float, float], shrink: float, product: float | None
) -> StabilityRegion:
    pole, zero, gain = point
    effective = 1.0 if product is None else product * gain * (1 - zero) / (1 - pole)
    values = np.linspace(min(_ZEROS[0], 1.2 * zero), _ZEROS[1], _VALUES)
    lower, upper = _stable_zeros(poles, effective, shrink)
    p, q = poles[None, :], values[:, None]
    return StabilityRegion(
        axes="pole-zero",
        poles=poles,
        values=values,
        radius=radius_of(p, q, effective * (1 - p) / (1 - q), shrink),
        lower=np.clip(lower, values[0], values[-1]),
        upper=np.clip(upper, values[0], values[-1]),
        critical=None,
        zero=None,
        product=effective,
        setting=(pole, zero),
    )


def _stable_zeros(pole: Grid, effective: float, shrink: float) -> tuple[Grid, Grid]:
    """Return the ends of the stable interval of zeros at constant effective rate times curvature.

    With a = effective (1 - pole)/(1 - zero), the conditions a (1 + zero) < (2 - shrink)(1 + pole) and
    pole (1 - shrink) - a zero < 1 bound the zero from above and from below.
    """
    scaled, damped, room = effective * (1 - pole), (2 - shrink) * (1 + pole), 1 - pole * (1 - shrink)
    upper = (damped - scaled) / (damped + scaled)
    excess = scaled - room
    lower = np.where(excess > 0, -room / np.where(excess > 0, excess, 1.0), -np.inf)
    empty = lower >= upper
    return np.where(empty, np.nan, lower), np.where(empty, np.nan, upper)


def radius_of(pole: Any, zero: Any, a: Any, shrink: float) -> Grid:
    """Return the spectral radius for arrays of poles, zeros and products a = rate * gain * curvature."""
    b, c = 1 + pole - shrink - a, pole * (1 - shrink) - a * zero
    discriminant = b * b - 4 * c
    real = (abs(b) + np.sqrt(np.maximum(discriminant, 0))) / 2
    return np.where(discriminant < 0, np.sqrt(np.maximum(c, 0)), real)
