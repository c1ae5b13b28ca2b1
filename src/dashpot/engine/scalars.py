"""The scalar row: all scalars of one step, in the fixed order in which compiled steps read them.

`pack` writes the row, and `unpack` reads it from symbols or tensors. Only this module defines the order.
"""

from __future__ import annotations

import dataclasses
import math
import warnings
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import Any, NamedTuple

from dashpot.engine.program import StepScalars
from dashpot.recipes.recipe import BoundStage
from dashpot.stages.base import Clock, Stage


class _Leading(NamedTuple):
    """The scalars that precede the scalars of the stages. An infinite `clip_value` means no bound."""

    scale: Any
    clip_value: Any
    rng_key: Any
    lr: Any
    factor: Any


SCALE, CLIP_VALUE = map(_Leading._fields.index, ("scale", "clip_value"))
"""Positions in the row of the gradient's scale and of the bound on its elements."""
_EXAMPLE = Clock(t=1, lr=1.0)


def pack(stages: Sequence[BoundStage], scalars: StepScalars) -> list[Any]:
    """Return the scalar row of a step, which consists of numbers and 0-d tensors.

    Args:
        stages: Active stages.
        scalars: Scalars of the step, with one record for each stage.
    """
    clip_value = math.inf if scalars.clip_value is None else scalars.clip_value
    row = list(_Leading(scalars.scale, clip_value, scalars.rng_key, scalars.clock.lr, scalars.clock.factor))
    for bound, record in zip(stages, scalars.stages, strict=True):
        row += record
        row += bound.settings
    return row


def unpack(
    stages: Sequence[BoundStage], records: Sequence[Any], row: Iterator[Any]
) -> tuple[list[BoundStage], StepScalars]:
    """Return the stages and scalars of a step, with numbers from `row`; the inverse of `pack`.

    Args:
        stages: Active stages.
        records: Scalars of the stages at any step, such as those from `example_records`.
        row: Entries of the scalar row. Additional entries at the end are not consumed.

    Returns:
        The stages with settings from the row, and the scalars. The clock in the scalars has no step number.
    """
    leading = _Leading(*islice(row, len(_Leading._fields)))
    bound, scalars = [], []
    for stage, record in zip(stages, records, strict=True):
        scalars.append(type(record)(*islice(row, len(record))))
        names = numeric_settings(stage.stage)
        settings = dict(zip(names, islice(row, len(names)), strict=True))
        bound.append(stage._replace(stage=_with_settings(stage.stage, settings)))
    clock = Clock(None, leading.lr, leading.factor)
    return bound, StepScalars(clock, tuple(scalars), leading.scale, leading.clip_value, leading.rng_key)


def example_records(stages: Iterable[BoundStage]) -> tuple[Any, ...]:
    """Return the scalars of each stage at the first step; their types and lengths are the same at every step."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the step itself issues the warnings of a stage
        return tuple(bound.stage.prepare(_EXAMPLE) for bound in stages)


def width(stages: Sequence[BoundStage], records: Sequence[Any]) -> int:
    """Return the number of entries in the scalar row."""
    return len(pack(stages, StepScalars(_EXAMPLE, tuple(records))))


def to_buffer(rows: Iterable[Iterable[Any]]) -> array[float]:
    """Return scalar rows as consecutive float64 numbers for a kernel."""
    return array("d", chain.from_iterable(rows))


def numeric_settings(stage: Stage) -> list[str]:
    """Return the names of the numeric settings that are not None. `BoundStage.settings` contains the values."""
    return [name for name in stage.numeric() if getattr(stage, name) is not None]


def _with_settings(stage: Stage, values: Mapping[str, Any]) -> Stage:
    """Return a copy of a stage with new, unchecked settings, so that its settings do not become constants of a kernel.

    The copy lacks all attributes other than fields, because such attributes may be derived from the old settings.
    """
    copy = object.__new__(type(stage))
    for field in dataclasses.fields(stage):  # pyright: ignore[reportArgumentType] - every stage is a dataclass
        object.__setattr__(copy, field.name, values.get(field.name, getattr(stage, field.name)))
    return copy
