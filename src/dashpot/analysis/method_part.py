"""Explanation of one recipe: sentences, numbers and figures from the closed forms."""

from __future__ import annotations

from typing import Any, NamedTuple

from dashpot.analysis.batch_scaling import scale_batch
from dashpot.analysis.batch_words import batch_rows, batch_sentences
from dashpot.analysis.explanation import Detail, Part
from dashpot.analysis.filter_response import Response, response
from dashpot.analysis.linear_form import LinearForm, linear_form
from dashpot.analysis.method_words import decay_sentences, memory_length, memory_sentences
from dashpot.analysis.modes import half_life
from dashpot.analysis.quadratic_stability import stability
from dashpot.analysis.result import Quantity
from dashpot.analysis.stability_words import noise_sentences, stability_sentences
from dashpot.analysis.stationary_variance import temperature
from dashpot.analysis.subject import Subject
from dashpot.analysis.wording import number, short_exponents
from dashpot.errors import ArgumentError


class Questions(NamedTuple):
    """Arguments of `explain` that ask for further results."""

    curvature: float | None = None
    noise: float | None = None
    batch_size: int | None = None
    to_batch: int | None = None


class Answer(NamedTuple):
    """Contribution of one closed form to a part."""

    sentences: list[str]
    details: list[Detail]
    notes: list[str]


def method_part(subject: Subject, questions: Questions) -> Part:
    """Return the explanation of the current recipe of a method."""
    form = linear_form(subject.recipe, "explain")
    answers = [
        _memory(subject, form),
        _stability(subject, questions),
        Answer(decay_sentences(form), [], []),
        _noise(subject, questions),
        _batch(subject, questions),
    ]
    details = [detail for answer in answers for detail in answer.details]
    notes = [*subject.notes, *form.reasons, *form.limits, *(note for answer in answers for note in answer.notes)]
    return Part(
        label=subject.label,
        subject=repr(subject.recipe),
        sentences=tuple(sentence for answer in answers for sentence in answer.sentences),
        notes=tuple(dict.fromkeys(map(short_exponents, notes))),
        numbers=tuple(_settings(form, questions.batch_size)),
        details=tuple(details),
        data=subject.recipe.to_dict(),
        extra=_equivalents(subject, form, questions.batch_size),
    )


def _settings(form: LinearForm, batch_size: int | None) -> list[Quantity]:
    """Return the rate, the memory and the decay."""
    memory = None if form.filter is None else memory_length(form.filter)
    total = None if form.filter is None or form.rate is None else form.rate * form.filter.dc_gain
    rows: list[tuple[str, Any, str]] = [
        ("lr", form.rate, "learning rate"),
        ("effective_lr", total, "learning rate times DC gain"),
        ("memory", memory, "length of the memory in steps"),
    ]
    if batch_size and memory:
        rows.append(
            ("memory_examples", memory * batch_size, f"length of the memory in examples, batch size {batch_size}")
        )
    if form.coupled_decay:
        rows.append(("coupled_decay", form.coupled_decay, "multiple of the weight that is added to the gradient"))
    if form.shrink:
        halved = half_life([1 - form.shrink])
        rows.append(("shrink", form.shrink, "fraction of the weight that decoupled decay subtracts per step"))
        rows.append(("decay_half_life", halved, "steps in which decoupled decay halves the weight"))
    return [Quantity(*row) for row in rows]


def _memory(subject: Subject, form: LinearForm) -> Answer:
    details = [] if form.filter is None else [Detail("Filter", response(subject.recipe), 3)]
    return Answer(memory_sentences(subject.name, subject.recipe, form), details, [])


def _equivalents(subject: Subject, form: LinearForm, batch_size: int | None) -> dict[str, list[Quantity]]:
    """Return the parametrizations of momentum with the same filter; with a denominator, there are none."""
    if form.filter is None or form.adaptive:
        return {}
    filtered: Response = response(subject.recipe)
    found = filtered.equivalents(batch_size).items()
    return {
        "Equivalent settings": [
            Quantity(name, item.settings, item.note) for name, item in found if item.settings is not None
        ]
    }


def _stability(subject: Subject, questions: Questions) -> Answer:
    result = stability(subject.recipe, questions.curvature)
    details = [] if result.largest_product is None else [Detail("Stability", result, 2)]
    return Answer(stability_sentences(result), details, list(result.reasons))


def _noise(subject: Subject, questions: Questions) -> Answer:
    if questions.curvature is None or questions.noise is None:
        return Answer([], [], [])
    result = temperature(subject.recipe, questions.curvature, questions.noise, questions.batch_size or 1)
    details = [] if result.variance is None else [Detail("Noise", result, 1)]
    return Answer(noise_sentences(result), details, list(result.reasons))


def _batch(subject: Subject, questions: Questions) -> Answer:
    if questions.batch_size is None or questions.to_batch is None:
        return Answer([], [], [])
    try:
        scaled = scale_batch(subject.owner, questions.batch_size, questions.to_batch)
    except ArgumentError as error:
        reason = str(error).removeprefix("scale_batch: ")
        return Answer([], [], [f"The settings are not scaled to batch size {number(questions.to_batch, 15)}: {reason}"])
    group = scaled.groups[subject.group]
    detail = Detail("Batch size", scaled, 1, batch_rows(scaled, group))
    return Answer(batch_sentences(scaled, group), [detail], list(scaled.limits))
