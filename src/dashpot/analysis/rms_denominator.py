"""Stationary denominator of an adaptive method whose second moment has a long memory."""

from __future__ import annotations

import math

from dashpot.analysis.closed_loop import by_product, stable_range
from dashpot.analysis.linear_form import LinearForm
from dashpot.analysis.quadratic_stability import total_curvature
from dashpot.analysis.stationary_gain import variance_gain
from dashpot.stages import CenteredMoment, SecondMoment, Stage


def missing_reason(form: LinearForm) -> str | None:
    """Return the reason why a recipe has no root-mean-square denominator; None if it has one."""
    if form.vanishes:
        return "The denominator grows with every gradient and has no stationary value."
    if len(form.denominators) != 1:
        return 'denominator="rms" requires a single denominator.'
    stage = form.denominator_stages[0]
    if isinstance(stage, SecondMoment):
        if stage.maximum:
            return "The denominator is a maximum over all steps and has no stationary value."
        return None if stage.nu == 1 else "The denominator depends on the gradient of the step (nu below 1)."
    if isinstance(stage, CenteredMoment):
        return None if stage.mean == "average" else 'The denominator subtracts the direction (mean="direction").'
    return f"{type(stage).__name__} is not a second moment of the gradient."


def rms_denominator(form: LinearForm, curvature: float, noise: float) -> float | None:
    """Solve for the denominator d of a stationary weight, with E[g^2] = (h + decay)^2 Var w + noise.

    Var w decreases in d from infinity at the stability limit, so that the solution is unique. Return None if every
    denominator is unstable.

    Args:
        form: Form with a filter and a rate > 0, for which `missing_reason` is None.
        curvature: Curvature h > 0 of the loss.
        noise: Variance > 0 of the batch gradient.
    """
    assert form.filter is not None
    assert form.rate
    section, shrink, rate = form.filter.reduced(), form.shrink or 0.0, form.rate
    bounds = stable_range(by_product(section, shrink))
    if bounds is None:
        return None
    total = total_curvature(form, curvature, 1.0)

    def excess(d: float) -> float:
        variance = variance_gain(section, rate * total / d, shrink) * (rate / d) ** 2 * noise
        return _denominator(form.denominator_stages[0], total**2 * variance + noise) - d

    low = rate * total / bounds[1]
    high = max(2 * low, _denominator(form.denominator_stages[0], noise))
    while excess(high) > 0:
        high *= 2
    for _ in range(100):  # halves the interval to rounding
        middle = (low + high) / 2
        low, high = (middle, high) if middle > low and excess(middle) > 0 else (low, middle)
    return high


def _denominator(stage: Stage, square: float) -> float:
    """Return the denominator for a mean square of the gradient."""
    if isinstance(stage, SecondMoment):
        square *= float(stage.scale)
        if stage.average == "sum":
            square /= 1 - float(stage.beta)
    assert isinstance(stage, (SecondMoment, CenteredMoment))
    eps = float(stage.eps)
    if isinstance(stage, CenteredMoment) and stage.power == "variance":
        return square + eps
    return math.sqrt(square + eps) if stage.eps_mode == "inside" else math.sqrt(square) + eps
