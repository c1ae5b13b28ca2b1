"""Stability and damping of a method on a quadratic."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dashpot.analysis import modes
from dashpot.analysis.closed_loop import by_product, by_rate, roots, spectral_radius, stable_range
from dashpot.analysis.linear_form import LARGEST, SMALLEST, LinearForm, linear_form
from dashpot.analysis.rational_filter import RationalFilter
from dashpot.analysis.result import Analysis, Quantity, text_of
from dashpot.analysis.wording import number
from dashpot.constraints import POSITIVE, Interval, Optional, check
from dashpot.errors import ArgumentError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_RANGE = Interval(SMALLEST, LARGEST, "both")


@dataclass(frozen=True, repr=False)
class Stability(Analysis):
    """Result of `stability`. Numbers that the theory does not define are None, with the reason in `reasons`.

    Attributes:
        form: Linear form of the recipe.
        curvature: The given curvature, or None.
        denominator: The given denominator d, or None.
        largest_product: Largest stable value of rate times (h + coupled decay)/d.
        largest_curvature: Largest stable curvature at the learning rate of the recipe.
        largest_lr: Largest stable learning rate at `curvature`.
        stable: Whether an error decays at `curvature`.
        spectral_radius: Factor per step by which an error is multiplied in the long run.
        regime: Behaviour of an error in words.
        half_life: Steps in which an error is halved in the long run.
        period: Steps of an oscillation; 2 if the sign alternates; None without oscillation.
        roots: Roots of the characteristic polynomial at `curvature`, largest modulus first.
        critical_curvature: Smallest curvature with a double root: errors decay without oscillation below it.
        deadbeat_zero: Zero of the filter for which one learning rate removes an error completely in finitely many
            steps, given the pole.
        deadbeat_product: Product rate * gain * curvature of this learning rate.
    """

    form: LinearForm
    curvature: float | None
    denominator: float | None
    largest_product: float | None = None
    largest_curvature: float | None = None
    largest_lr: float | None = None
    stable: bool | None = None
    spectral_radius: float | None = None
    regime: str | None = None
    half_life: float | None = None
    period: float | None = None
    roots: tuple[complex, ...] = ()
    critical_curvature: float | None = None
    deadbeat_zero: float | None = None
    deadbeat_product: float | None = None
    reasons: tuple[str, ...] = ()

    @property
    def limits(self) -> tuple[str, ...]:
        """Conditions under which the result holds, as sentences."""
        return self.form.limits

    @property
    def unit(self) -> str:
        """Name of the curvature: "curvature", or "preconditioned curvature h/d" if d is not given."""
        return "preconditioned curvature h/d" if _preconditioned(self.form, self.denominator) else "curvature"

    def summary(self) -> str:
        """Return the stability in one to three sentences."""
        parts = [self._behaviour(), self._bounds(), *(f"Undefined: {text}" for text in self.reasons)]
        return " ".join(part for part in parts if part)

    def _behaviour(self) -> str:
        if self.regime is None or self.spectral_radius is None:
            return ""
        head = f"Regime at {self.unit} {text_of(self.curvature)}: {self.regime}"
        if self.stable and self.half_life:
            every = "step" if text_of(self.half_life) == "1" else f"{text_of(self.half_life)} steps"
            return f"{head}; errors are halved every {every} in the long run."
        growth = f", by a factor of {text_of(self.spectral_radius)} per step" if self.spectral_radius > 1 else ""
        return f"{head}{growth}."

    def _bounds(self) -> str:
        if self.largest_product is None:
            return ""
        if self.largest_product <= 0:
            return f"Unstable at every positive {self.unit}."
        if self.largest_curvature == 0:
            return f"Unstable at every positive {self.unit} at learning rate {text_of(self.form.rate)}."
        if self.largest_curvature is None:
            return f"Stable for learning rate times {self.unit} below {text_of(self.largest_product)}."
        text = f"Stable for a {self.unit} below {text_of(self.largest_curvature)} at learning rate "
        text += text_of(self.form.rate)
        if self.largest_lr is not None:
            text += f", and for learning rates below {text_of(self.largest_lr)} at {self.unit} "
            text += text_of(self.curvature)
        return text + "."

    def quantities(self) -> list[Quantity]:
        """Return the numbers of the result, most important first."""
        unit = self.unit
        rows = [
            ("stable", "whether an error decays"),
            ("regime", "behaviour of an error"),
            ("largest_curvature", f"largest stable {unit} at this learning rate"),
            ("largest_lr", f"largest stable learning rate at this {unit}"),
            ("largest_product", f"largest stable learning rate times {unit}, including coupled decay"),
            ("spectral_radius", "factor on an error per step in the long run"),
            ("half_life", "steps in which an error is halved"),
            ("period", "steps of an oscillation"),
            ("critical_curvature", f"{unit} of critical damping"),
            ("deadbeat_zero", "zero with which an error vanishes in finitely many steps"),
            ("deadbeat_product", f"learning rate times gain times {unit} with which it vanishes"),
        ]
        items = [Quantity(name, getattr(self, name), meaning) for name, meaning in rows]
        notes = [("reasons", "why numbers are undefined"), ("limits", "conditions of the result")]
        return items + [Quantity(name, list(getattr(self, name)), text) for name, text in notes if getattr(self, name)]

    def plot(self, ax: Axes | Sequence[Axes] | None = None) -> Figure:
        """Draw the stable learning rates over the pole and over the zero, with the setting marked."""
        from dashpot.analysis.stability_figure import draw

        return draw(self, ax)


def stability(
    recipe: Any, curvature: float | None = None, *, denominator: float | None = None, step: int | None = None
) -> Stability:
    """Compute the stability and damping of a method on a quadratic.

    With gradient g = h w, filter gain k, pole p and zero q, rate lr, coupled decay rho and the fraction s of the weight
    that decoupled decay subtracts per step, errors multiply by the roots of

        z^2 - (1 + p - s - a) z + p (1 - s) - a q,        a = lr k (h + rho)/d

    They decay if s (1-p) + a (1-q) > 0, a (1+q) < (2-s)(1+p) and |p (1-s) - a q| < 1. Without decay and with unit DC
    gain, the bound on lr h is 2 (1+p)(1-q)/((1+q)(1-p)) for -1 < q < 1 and (1-q)/|q| for q < 0, whichever is smaller.
    Filters of higher order use the roots of their characteristic polynomial.

    Args:
        recipe: A recipe, an optimizer whose groups have the same settings, a filter stage or a `RationalFilter`; the
            latter two with a learning rate of 1.
        curvature: Second derivative h > 0 of the loss along a coordinate or an eigenvector, or None for the numbers
            that do not depend on it. For a method with a denominator d, it is (h + coupled decay)/d, unless
            `denominator` is given.
        denominator: Value d > 0 of the denominators of an adaptive method.
        step: Number of completed steps at which schedules are evaluated. None: settings without their schedules.

    Returns:
        The largest stable curvature and learning rate, damping regime, spectral radius and half-life.

    Raises:
        ArgumentError: If an argument is out of range, or `denominator` is given for a recipe without a denominator.

    Source: Somefun, learning dynamics of AutoSGM; Polyak (1964) for heavy ball.

    Example:
        >>> import dashpot as dp
        >>> result = stability(dp.HeavyBall.recipe_for(lr=0.1, momentum=0.81), curvature=0.1)
        >>> round(result.largest_curvature, 6), round(result.critical_curvature, 6), round(result.spectral_radius, 6)
        (36.2, 0.1, 0.9)
        >>> stability(dp.Filter(0.9, zero=-0.3)).largest_curvature.__round__(2)
        4.33
    """
    check("stability", "curvature", curvature, Optional(POSITIVE))
    check_range("stability", "curvature", curvature)
    form = linear_form(recipe, "stability", step)
    check_denominator("stability", form, denominator)
    number = None if curvature is None else float(curvature)
    return stability_of(form, number, None if denominator is None else float(denominator))


def stability_of(form: LinearForm, curvature: float | None, denominator: float | None) -> Stability:
    """Return the stability of a linear form."""
    known = {"form": form, "curvature": curvature, "denominator": denominator}
    reasons = undefined(form)
    if form.filter is None or form.filter.gain == 0 or not form.filter.is_stable:
        return Stability(**known, reasons=reasons)
    section = form.filter.reduced()
    total = None if curvature is None else total_curvature(form, curvature, denominator)
    if total is not None:
        bounds = stable_range(by_rate(section, total, form.fixed_shrink, form.shrink_per_rate))
        known["largest_lr"] = bounds[1] if bounds else 0.0
    if form.shrink is None:
        return Stability(**known, reasons=reasons)
    bounds = stable_range(by_product(section, form.shrink))
    known |= {"largest_product": bounds[1] if bounds else 0.0, **_deadbeat(section, form.shrink)}
    rate = usable_rate(form)
    if rate is None:
        return Stability(**known, reasons=reasons)
    known |= _at_rate(form, section, rate, form.shrink, denominator)
    if total is not None:
        known |= _at_curvature(section, rate * total, form.shrink, bounds)
    return Stability(**known, reasons=reasons)


def check_range(owner: str, name: str, value: float | None) -> None:
    """Raise `ArgumentError` for a positive number of a magnitude at which products may overflow."""
    check(owner, name, value, Optional(_RANGE))


def check_denominator(owner: str, form: LinearForm, denominator: float | None) -> None:
    """Raise `ArgumentError` if `denominator` is not positive, or the recipe has no denominator."""
    check(owner, "denominator", denominator, Optional(POSITIVE))
    check_range(owner, "denominator", denominator)
    if denominator is not None and not form.adaptive:
        raise ArgumentError(f"{owner}: denominator must be None for a recipe without a denominator.")


def undefined(form: LinearForm) -> tuple[str, ...]:
    """Return the reasons why the numbers of a linear form are undefined on a quadratic."""
    found = list(form.reasons)
    if form.filter is not None and form.filter.gain == 0:
        found.append("The gain of the filter is 0, so that gradients have no effect.")
    if form.filter is not None and not form.filter.is_stable:
        found.append("The filter is unstable: a pole is outside the open unit disc.")
    if form.rate == 0:
        found.append("The learning rate is 0, so that gradients do not change the weight.")
    if form.rate and usable_rate(form) is None:
        found.append(f"The learning rate {text_of(form.rate)} is outside [{number(SMALLEST)}, {number(LARGEST)}].")
    return tuple(found)


def usable_rate(form: LinearForm) -> float | None:
    """Return the learning rate; None if it is undefined, 0, or of a magnitude at which products may overflow."""
    return form.rate if form.rate and SMALLEST <= form.rate <= LARGEST else None


def _preconditioned(form: LinearForm, denominator: float | None) -> bool:
    return form.adaptive and denominator is None


def total_curvature(form: LinearForm, curvature: float, denominator: float | None) -> float:
    """Return (h + coupled decay)/d."""
    if _preconditioned(form, denominator):
        return curvature
    return (curvature + form.coupled_decay) / (1.0 if denominator is None else denominator)


def _curvature_of(form: LinearForm, total: float, denominator: float | None) -> float:
    """Return the curvature h for which (h + coupled decay)/d equals `total`."""
    if _preconditioned(form, denominator):
        return total
    return total * (1.0 if denominator is None else denominator) - form.coupled_decay


def _deadbeat(section: RationalFilter, shrink: float) -> dict[str, float]:
    """Both roots are 0 for a = 1 + pole - shrink and zero = pole (1 - shrink)/a."""
    if section.first_order is None:
        return {}
    pole = section.first_order[0]
    product = 1 + pole - shrink
    return {"deadbeat_zero": pole * (1 - shrink) / product, "deadbeat_product": product} if product > 0 else {}


def critical_product(section: RationalFilter, shrink: float) -> float | None:
    """Return the smallest product rate * gain * curvature > 0 with a double root, of a first-order filter.

    The discriminant (1 + pole - shrink - a)^2 - 4 (pole (1 - shrink) - a zero) is zero for a = u +- sqrt(u^2 - v^2),
    with u = 1 + pole - shrink - 2 zero and v = 1 - pole - shrink.
    """
    if section.first_order is None:
        return None
    pole, zero, _ = section.first_order
    u, v = 1 + pole - shrink - 2 * zero, 1 - pole - shrink
    square = 4 * (pole - zero) * (1 - zero) - 4 * shrink * (pole - zero)  # u^2 - v^2
    if square < 0 or u <= 0:
        return None
    small = v * v / (u + math.sqrt(square))
    return small if small > 0 else u + math.sqrt(square)


def _at_rate(
    form: LinearForm, section: RationalFilter, rate: float, shrink: float, denominator: float | None
) -> dict[str, float | None]:
    bounds = stable_range(by_product(section, shrink))
    largest = _curvature_of(form, bounds[1] / rate, denominator) if bounds else 0.0
    critical = critical_product(section, shrink) if section.gain > 0 else None
    if critical is not None:
        critical = _curvature_of(form, critical / rate / section.gain, denominator)
    return {"largest_curvature": max(largest, 0.0), "critical_curvature": critical if (critical or 0) > 0 else None}


def _at_curvature(
    section: RationalFilter, product: float, shrink: float, bounds: tuple[float, float] | None
) -> dict[str, Any]:
    found = roots(by_product(section, shrink).at(product))
    stable = spectral_radius(found) < 1 if section.order > 1 else bounds is not None and bounds[0] < product < bounds[1]
    return {
        "stable": stable,
        "spectral_radius": spectral_radius(found),
        "regime": modes.regime(found, stable),
        "half_life": modes.half_life(found),
        "period": modes.period(found),
        "roots": tuple(found),
    }
