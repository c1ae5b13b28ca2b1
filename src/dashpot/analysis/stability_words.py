"""Sentences on stability and on stationary noise."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from dashpot.analysis.wording import count, number

if TYPE_CHECKING:
    from dashpot.analysis.quadratic_stability import Stability
    from dashpot.analysis.stationary_variance import Temperature


def stability_sentences(result: Stability) -> list[str]:
    """Return the largest stable curvature, and the behaviour at the curvature of the result."""
    return [*_bound(result), *_behaviour(result)]


def units(result: Stability) -> str:
    """Return the unit of curvatures as the end of a sentence, empty for a method without a denominator."""
    return " in preconditioned units (h/d)" if result.form.adaptive and result.denominator is None else ""


def _bound(result: Stability) -> list[str]:
    rate = result.form.rate
    if rate == 0:
        return ["At lr 0, gradients do not move the weights."]
    if result.largest_product is None:
        return []
    if rate is None:
        bound = number(result.largest_product)
        return [f"It is stable while the learning rate times the curvature is below {bound}{units(result)}."]
    if not result.largest_curvature:
        return [f"At lr {number(rate)}, it is unstable at every curvature."]
    bound = number(result.largest_curvature)
    return [f"At lr {number(rate)}, it is stable for curvatures below {bound}{units(result)}."]


def _behaviour(result: Stability) -> list[str]:
    if result.regime is None or result.curvature is None or result.spectral_radius is None:
        return []
    head = f"At curvature {number(result.curvature)}"
    phrase = _phrase(result)
    if result.stable and result.half_life is None:  # the rounded spectral radius is 1
        return [f"{head}, an error decays more slowly than double precision resolves ({phrase})."]
    if result.stable and result.half_life:
        every = count(result.half_life, "step").removeprefix("1 ")
        return [f"{head}, an error is halved every {every} ({phrase})."]
    if result.stable:
        return [f"{head}, an error {phrase.partition(', ')[2]} ({phrase.partition(',')[0]})."]
    kind, _, regime = phrase.partition(", ")
    growth = f", growing {number(result.spectral_radius)}-fold per step" if result.spectral_radius > 1.0005 else ""
    limit = f"; learning rates below {number(result.largest_lr)} are stable there" if result.largest_lr else ""
    return [f"{head}, it is {kind}: an error {regime}{growth}{limit}."]


def _phrase(result: Stability) -> str:
    """Return the regime, with a period in the number format of sentences."""
    regime = result.regime or ""
    if result.period is None:
        return regime
    return re.sub(r"(?<=period of )\S+ steps?", count(result.period, "step", digits=3), regime)


def noise_sentences(result: Temperature) -> list[str]:
    """Return the fluctuation of the weight around the minimum."""
    if result.variance is None or result.excess_loss is None or result.temperature is None:
        return []
    of = f" and batch size {result.batch}" if result.batch > 1 else ""
    scaled = result.form.adaptive and result.denominator is None
    source = "a variance of g/d of" if scaled else "a gradient variance of"
    return [
        f"With {source} {number(result.noise)} per example{of}, the weight fluctuates around the "
        f"minimum with a standard deviation of {number(result.variance**0.5)}; the mean excess loss is "
        f"{number(result.excess_loss)}, the temperature {number(result.temperature)}."
    ]
