"""Explanation of one recipe: sentences, numbers and figures from the closed forms."""

from __future__ import annotations

from typing import Any, NamedTuple

from dashpot.analysis.explanation import Detail, Part
from dashpot.analysis.filter_response import response
from dashpot.analysis.linear_form import LinearForm, linear_form
from dashpot.analysis.method_words import decay_sentences, half_life, memory_length, memory_sentences
from dashpot.analysis.quadratic_stability import stability
from dashpot.analysis.result import Quantity
from dashpot.analysis.stability_words import noise_sentences, stability_sentences
from dashpot.analysis.stationary_variance import temperature
from dashpot.analysis.subject import Subject
from dashpot.stages import SecondMoment


class Questions(NamedTuple):
    """Arguments of `explain` that ask for further results."""

    curvature: float | None = None
    noise: float | None = None
    batch_size: int | None = None
    to_batch: int | None = None


def method_part(subject: Subject, questions: Questions) -> Part:
    """Return the explanation of the current recipe of a method."""
    recipe = subject.recipe
    form = linear_form(recipe, "explain")
    stable = stability(recipe, questions.curvature)
    details = [Detail("Stability", stable, 2)]
    said = [*memory_sentences(subject.name, recipe, form), *stability_sentences(stable), *decay_sentences(form)]
    if form.filter is not None:
        details.insert(0, Detail("Filter", response(recipe), 3))
    if questions.curvature is not None and questions.noise is not None:
        noise = temperature(recipe, questions.curvature, questions.noise, questions.batch_size or 1)
        details.append(Detail("Noise", noise, 1))
        said += noise_sentences(noise)
    return Part(
        label=subject.label,
        subject=repr(recipe),
        sentences=tuple(said),
        notes=(*subject.notes, *form.reasons, *form.limits, *_growth(subject)),
        numbers=tuple(_settings(form)),
        details=tuple(details),
        data=recipe.to_dict(),
    )


def _growth(subject: Subject) -> list[str]:
    sums = [s for s in subject.recipe.active() if isinstance(s, SecondMoment) and s.average == "sum" and s.beta == 1]
    return ["The denominator d grows with every gradient, so that steps become smaller."] if sums else []


def _settings(form: LinearForm) -> list[Quantity]:
    """Return the rate, the memory and the decay."""
    total = None if form.filter is None or form.rate is None else form.rate * form.filter.dc_gain
    rows: list[tuple[str, Any, str]] = [
        ("lr", form.rate, "learning rate"),
        ("effective_lr", total, "learning rate times DC gain"),
        ("memory", None if form.filter is None else memory_length(form.filter), "length of the memory in steps"),
    ]
    if form.coupled_decay:
        rows.append(("coupled_decay", form.coupled_decay, "multiple of the weight that is added to the gradient"))
    if form.shrink:
        rows.append(("shrink", form.shrink, "fraction of the weight that decoupled decay subtracts per step"))
        rows.append(("decay_half_life", half_life(1 - form.shrink), "steps in which decoupled decay halves the weight"))
    return [Quantity(*row) for row in rows]
