"""Stationary variance, excess loss and temperature of a method on a quadratic with gradient noise."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dashpot.analysis.linear_form import LinearForm, linear_form
from dashpot.analysis.points import finite_array
from dashpot.analysis.quadratic_stability import (
    check_denominator,
    check_range,
    stability_of,
    total_curvature,
    undefined,
    usable_rate,
)
from dashpot.analysis.result import Analysis, Quantity, text_of
from dashpot.analysis.rms_denominator import missing_reason, rms_denominator
from dashpot.analysis.stationary_gain import variance_gain
from dashpot.constraints import POSITIVE, Interval, check, shown
from dashpot.errors import ArgumentError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


VANISHING = "The factor lr/d tends to 0 as d grows, so that there is no stationary variance."


@dataclass(frozen=True, repr=False)
class Temperature(Analysis):
    """Result of `temperature`. Numbers that the theory does not define are None, with the reason in `reasons`.

    Attributes:
        form: Linear form of the recipe.
        curvature, noise, batch: The arguments.
        denominator: Value of d, the solution for "rms", or None.
        variance: Stationary variance of the weight.
        excess_loss: Mean of (h/2) w^2, the loss above the minimum, without decay terms.
        temperature: T with which exp(-energy/T) has this variance, for energy = loss plus the potential of the decay.
        small_rate_temperature: Limit of T for small rates, effective_lr * noise/(2 batch).
        effective_lr: lr times the DC gain of the filter.
        influence: Total change of the weight by one gradient of 1 on a flat loss, equal to `effective_lr`: the sum of
            lr h_k over all later steps.
        reasons: Reasons why numbers are undefined, as sentences.
    """

    form: LinearForm
    curvature: float
    noise: float
    batch: int
    denominator: float | None
    variance: float | None = None
    excess_loss: float | None = None
    temperature: float | None = None
    small_rate_temperature: float | None = None
    effective_lr: float | None = None
    influence: float | None = None
    reasons: tuple[str, ...] = ()

    @property
    def limits(self) -> tuple[str, ...]:
        """Conditions under which the result holds, as sentences."""
        return self.form.limits

    def density(self, w: ArrayLike) -> NDArray[np.float64]:
        """Return the stationary probability density of the weight, relative to the minimum.

            exp(-w^2/(2 variance))/sqrt(2 pi variance)

        It is exact on a quadratic with Gaussian noise of any rate, and equals the Gibbs density with `temperature`.

        Raises:
            ArgumentError: If w is not finite, or there is no stationary distribution.
        """
        variance = self._defined("density", self.variance)
        points = finite_array("density", "w", w) / math.sqrt(variance)
        with np.errstate(over="ignore"):  # the density is 0
            return np.exp(-(points**2) / 2) / math.sqrt(2 * math.pi * variance)

    def gibbs(self, loss: Callable[[NDArray[np.float64]], ArrayLike], w: ArrayLike) -> NDArray[np.float64]:
        """Return the Gibbs density exp(-loss(w)/T)/Z of any loss of one weight, with the temperature of small rates.

        It is the limit of the distribution for small rates and noise that does not depend on w. `curvature` has no
        effect.

        Args:
            loss: Function of an array of weights.
            w: Increasing weights that cover the region of low loss; Z is a trapezoidal sum over them.

        Raises:
            ArgumentError: If the temperature is undefined, w has fewer than two increasing numbers, or `loss` does not
                return a finite number for each of them.
        """
        temperature = self._defined("gibbs", self.small_rate_temperature)
        points = finite_array("gibbs", "w", w)
        if points.ndim != 1 or len(points) < 2 or not (np.diff(points) > 0).all():
            raise ArgumentError("gibbs: w must be an increasing sequence of at least two numbers.")
        losses = finite_array("gibbs", "loss(w)", loss(points))
        if losses.shape != points.shape:
            raise ArgumentError(f"gibbs: loss(w) must have the shape {points.shape} of w, got {losses.shape}.")
        weights = np.exp(-(losses - losses.min()) / temperature)
        total = float(np.sum((weights[1:] + weights[:-1]) / 2 * np.diff(points)))
        return weights / total

    def _defined(self, owner: str, value: float | None) -> float:
        if value is None:
            raise ArgumentError(f"{owner}: the temperature is undefined. {' '.join(self.reasons)}")
        return value

    def summary(self) -> str:
        """Return the variance and temperature in one to three sentences."""
        parts = [self._fluctuation(), self._heat(), *(f"Undefined: {text}" for text in self.reasons)]
        return " ".join(part for part in parts if part)

    def _fluctuation(self) -> str:
        if self.variance is None:
            return ""
        text = f"The weight fluctuates around the minimum with variance {text_of(self.variance)}"
        return f"{text}; the mean excess loss is {text_of(self.excess_loss)}."

    def _heat(self) -> str:
        if self.temperature is None or self.small_rate_temperature is None:
            return ""
        ratio = text_of(self.temperature / self.small_rate_temperature)
        limit = "equal to its limit" if ratio == "1" else f"{ratio} times its limit"
        return f"The temperature is {text_of(self.temperature)}, {limit} for small rates."

    def quantities(self) -> list[Quantity]:
        """Return the numbers of the result, most important first."""
        rows = [
            ("variance", "stationary variance of the weight"),
            ("excess_loss", "mean loss above the minimum"),
            ("temperature", "T of the Gibbs density with this variance"),
            ("small_rate_temperature", "effective_lr noise/(2 batch), the limit of T for small rates"),
            ("effective_lr", "learning rate times DC gain"),
            ("influence", "total change of the weight by one gradient of 1"),
        ]
        items = [Quantity(name, getattr(self, name), meaning) for name, meaning in rows]
        notes = [("reasons", "why numbers are undefined"), ("limits", "conditions of the result")]
        return items + [Quantity(name, list(getattr(self, name)), text) for name, text in notes if getattr(self, name)]

    def plot(self, ax: Axes | Sequence[Axes] | None = None) -> Figure:
        """Draw the stationary density, and the density of the limit of small rates."""
        from dashpot.analysis.density_figure import draw

        return draw(self, ax)


def temperature(
    recipe: Any,
    curvature: float,
    noise: float = 1.0,
    batch: int = 1,
    *,
    denominator: float | str | None = None,
    step: int | None = None,
) -> Temperature:
    """Compute the stationary variance of a weight under gradient noise, and the corresponding temperature.

    With gradients h w + n, where n is white noise of variance noise/batch, filter gain k, pole p, zero q, rate lr and
    a = lr k h,

        Var w = (lr k noise/(batch h)) ((1+p)(1-q) + a q (1+q)) / ((1 - p + a q)(2 (1+p) - a (1+q)))

    without decay; coupled and decoupled decay and filters of higher order are included as well. The Gibbs density
    exp(-h w^2/(2 T)) with T = h Var w has the same variance. For small rates, T = effective_lr noise/(2 batch),
    independent of the curvature and, at fixed effective rate, of pole and zero.

    Args:
        recipe: A recipe, an optimizer whose groups have the same settings, a filter stage or a `RationalFilter`; the
            latter two with a learning rate of 1.
        curvature: Second derivative h > 0 of the loss.
        noise: Variance > 0 of the gradient of one example.
        batch: Number of examples >= 1 whose gradients are averaged.
        denominator: Value d > 0 of the denominators of an adaptive method, or "rms" for the stationary root mean square
            of the gradient, which the second moment of Adam and others approaches if its memory is long. None:
            `curvature` is (h + coupled decay)/d, `noise` is the variance of g/d, and the excess loss and temperatures
            are those of loss/d.
        step: Number of completed steps at which schedules are evaluated. None: settings without their schedules.

    Returns:
        Variance, excess loss and temperature. They are None for an unstable or undefined recipe, with the reason.

    Raises:
        ArgumentError: If an argument is out of range, or `denominator` is given for a recipe without a denominator.

    Source: TTIC 31230 lecture notes (temperature); Somefun, learning dynamics of AutoSGM.

    Example:
        >>> import dashpot as dp
        >>> result = temperature(dp.SGD.recipe_for(lr=0.02), curvature=1.0)
        >>> round(result.excess_loss, 5), round(result.small_rate_temperature, 5)
        (0.00505, 0.01)
    """
    for name, value in (("curvature", curvature), ("noise", noise)):
        check("temperature", name, value, POSITIVE)
        check_range("temperature", name, value)
    check("temperature", "batch", batch, Interval(1, math.inf, "left", integer=True))
    form = linear_form(recipe, "temperature", step)
    problem = _Problem(form, float(curvature), float(noise), int(batch))
    if isinstance(denominator, str):
        if denominator != "rms":
            raise ArgumentError(
                f'temperature: denominator must be None, "rms" or a number in (0, inf), got {shown(denominator)}.'
            )
        return _at_rms(problem)
    check_denominator("temperature", form, denominator)
    return _at_denominator(problem, None if denominator is None else float(denominator))


class _Problem(NamedTuple):
    form: LinearForm
    curvature: float
    noise: float
    batch: int


def _at_denominator(problem: _Problem, denominator: float | None) -> Temperature:
    form, curvature, noise, batch = problem
    behaviour = stability_of(form, curvature, denominator)
    rate = usable_rate(form)
    if form.filter is None or rate is None or behaviour.stable is None:
        return Temperature(*problem, denominator, reasons=behaviour.reasons)
    if form.vanishes and denominator is None:
        return Temperature(*problem, denominator, reasons=(VANISHING,))
    d = 1.0 if denominator is None else denominator
    effective = rate * form.filter.dc_gain / d
    small = effective * noise / batch / 2 if effective > 0 else None
    if not behaviour.stable:
        reason = f"There is no stationary distribution at {behaviour.unit} {text_of(curvature)}: {behaviour.regime}."
        return Temperature(*problem, denominator, None, None, None, small, effective, effective, (reason,))
    shrink = form.shrink or 0.0
    product = rate * total_curvature(form, curvature, denominator)
    gain = variance_gain(form.filter.reduced(), product, shrink)
    variance = gain * (rate / d) ** 2 * noise / batch
    # Decoupled decay adds the potential (shrink/effective_lr) w^2/2 to the loss, and coupled decay (decay) w^2/2.
    decay = 0.0 if form.adaptive and denominator is None else form.coupled_decay
    loss = curvature * variance / 2
    if small is None:
        reason = "The gradients have a negative total weight, or 0: there is no Gibbs density with this variance."
        return Temperature(*problem, denominator, variance, loss, None, None, effective, effective, (reason,))
    energy = curvature + decay + shrink / effective
    return Temperature(*problem, denominator, variance, loss, energy * variance, small, effective, effective)


def _at_rms(problem: _Problem) -> Temperature:
    form, curvature, noise, batch = problem
    if not form.adaptive:
        check_denominator("temperature", form, 1.0)
    reason = missing_reason(form)
    reasons = (*undefined(form), *(() if reason is None else (reason,)))
    if reasons:
        return Temperature(*problem, None, reasons=reasons)
    denominator = rms_denominator(form, curvature, noise / batch)
    if denominator is None:
        return Temperature(*problem, None, reasons=("The weight diverges for every denominator.",))
    text = "d is the stationary root mean square of the gradient, for a second moment with a pole near 1."
    limited = dataclasses.replace(form, limits=(*form.limits, text))
    return _at_denominator(problem._replace(form=limited), denominator)
