"""Sentences on the memory, the denominator and the weight decay of a method."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from dashpot.analysis.linear_form import LinearForm
from dashpot.analysis.modes import half_life
from dashpot.analysis.rational_filter import RationalFilter
from dashpot.analysis.wording import count, joined, number, percent
from dashpot.recipes.recipe import Recipe
from dashpot.stages import CenteredMoment, Curvature, SecondMoment, Stage

_SAME = 1e-9  # relative difference below which rounded settings, such as a zero computed from a pole, are equal


def memory_sentences(name: str, recipe: Recipe, form: LinearForm) -> list[str]:
    """Return what the direction is computed from: the filter, the denominator and the total weight."""
    divisors = [words for stage in recipe.active() if (words := denominator(stage)) is not None]
    if form.filter is None:
        known = [f"{name} divides by {joined(divisors)}."] if divisors else []
        return [*known, f"{'The rest of it' if known else name} has no closed form; the notes state the reason."]
    if form.filter.gain == 0:
        return [f"The filter of {_inner(name)} has a gain of 0, so that gradients have no effect."]
    length = memory_length(form.filter)
    if length is None:
        tail = f", divided by {joined(divisors)}".replace("the magnitude of the latest gradient", "its magnitude")
        tail = tail if divisors else ""
        return [f"{name} uses the latest gradient alone{tail}.", *_total_weight(form)]
    newest = _newest(form.filter)
    if divisors and not form.filter_first:
        first = f"{name} divides each gradient by {joined(divisors)}, and remembers about {count(length, 'quotient')}"
        return [f"{first} ({newest}).", *_total_weight(form)]
    tail = f" and divides by {joined(divisors)}" if divisors else ""
    return [f"{name} remembers about {count(length, 'gradient')} ({newest}){tail}.", *_total_weight(form)]


def _inner(name: str) -> str:
    """Return a name within a sentence."""
    return name.replace("The ", "the ", 1) if name.startswith("The ") else name


def memory_length(section: RationalFilter) -> float | None:
    """Return 1/(1 - |p|) for the pole p of largest magnitude that no zero cancels; None without such a pole.

    >>> memory_length(RationalFilter(zeros=(0.5,), poles=(0.75,))), memory_length(RationalFilter((0.9,), (0.9,)))
    (4.0, None)
    """
    largest = max(map(abs, section.reduced().poles), default=0.0)
    return 1 / (1 - largest) if 0 < largest < 1 else None


def _newest(section: RationalFilter) -> str:
    share = section.gain / section.dc_gain if section.dc_gain else math.inf
    if share > 1 + _SAME:
        return "the older ones with negative weights"
    return f"the newest has {percent(share)} of the weight"


def _total_weight(form: LinearForm) -> list[str]:
    """Return the effective learning rate if the weights of the gradients do not add up to 1."""
    total = form.filter.dc_gain if form.filter is not None else 1.0
    if math.isclose(total, 1.0, rel_tol=_SAME) or form.rate is None:
        return []
    return [f"The weights add up to {number(total)}, so the effective learning rate is {number(form.rate * total)}."]


# ---- denominators ----------------------------------------------------------------------------------------------------


def denominator(stage: Stage) -> str | None:
    """Return a description of a denominator, or None for other stages.

    >>> denominator(SecondMoment(beta=0.99))
    'the root mean square of about 100 gradients'
    >>> denominator(Curvature(beta=0.9, accumulator="maximum"))
    'the largest row norms of the Hessian in about 10 Hessian-vector products'
    """
    words = _DENOMINATORS.get(type(stage))
    return None if words is None else words(stage)


def _length(beta: Any) -> float:
    return 1 / (1 - float(beta)) if beta < 1 else math.inf


def _gradients(beta: Any) -> str:
    length = _length(beta)
    if not math.isfinite(length):
        return "all gradients so far"
    return "the latest gradient" if length == 1 else f"about {count(length, 'gradient')}"


def _second_moment(stage: SecondMoment) -> str:
    if stage.average == "sum":
        return f"the root of the sum of squares of {_gradients(stage.beta)}"
    if stage.beta == 0 or stage.nu == 0:
        return "the magnitude of the latest gradient"
    over = _gradients(stage.beta)
    if stage.maximum:
        return f"the largest root mean square so far, each of {over}"
    mixed = f", in which the newest has a weight of at least {percent(1 - float(stage.nu))}" if stage.nu < 1 else ""
    return f"the root mean square of {over}{mixed}"


def _centered(stage: CenteredMoment) -> str:
    kind = "standard deviation" if stage.power == "std" else "variance"
    return f"the {kind} of {_gradients(stage.beta)}"


def _curvature(stage: Curvature) -> str:
    length = _length(stage.beta)
    over = (
        f"about {count(length, 'Hessian-vector product')}" if math.isfinite(length) else "all Hessian-vector products"
    )
    if stage.estimate == "row-norm":
        kind = "row norms of the Hessian"
    else:
        kind = "diagonal of the Hessian" if stage.accumulator == "mean" else "magnitude of the Hessian's diagonal"
    if stage.accumulator == "maximum":
        return f"the largest {kind} in {over}"
    factor = f"{number(float(stage.gamma))} times " if stage.gamma not in (None, 1) else ""  # pyright: ignore[reportArgumentType]
    return f"{factor}the {kind}, averaged over {over}"


_DENOMINATORS: Mapping[type[Stage], Callable[[Any], str]] = {
    CenteredMoment: _centered,
    Curvature: _curvature,
    SecondMoment: _second_moment,
}


# ---- weight decay ----------------------------------------------------------------------------------------------------


def decay_sentences(form: LinearForm) -> list[str]:
    """Return the effect of coupled and of decoupled decay."""
    return [*_coupled(form), *_decoupled(form)]


def _coupled(form: LinearForm) -> list[str]:
    if form.coupled_decay == 0:
        return []
    if form.adaptive:
        return [
            f"Coupled weight decay of {number(form.coupled_decay)} is divided by the denominator as the gradient is."
        ]
    return [f"Coupled weight decay adds {number(form.coupled_decay)} to the curvature."]


def _decoupled(form: LinearForm) -> list[str]:
    if form.shrink_per_rate == form.fixed_shrink == 0:
        return []
    if form.shrink is None:
        return ["The decoupled weight decay per step depends on the learning rate, which is computed from data."]
    if form.shrink == 0:
        return ["At a learning rate of 0, the weight decay has no effect."]
    if form.shrink >= 1:
        return [f"Decoupled weight decay subtracts {percent(form.shrink)} of the weights per step: {_overshoot(form)}."]
    text = f"Decoupled weight decay shrinks the weights by {_share(form.shrink)} per step"
    steps = half_life([1 - form.shrink])
    return [f"{text}, by half in {count(steps, 'step')}." if steps is not None else f"{text}."]


def _overshoot(form: LinearForm) -> str:
    return "it removes the earlier weights" if form.shrink == 1 else "it overshoots zero"


def _share(share: float) -> str:
    return percent(share) if share >= 0.001 else f"a fraction of {number(share)}"
