"""Correspondence between the settings of a parameter group and the settings of its recipe."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dashpot.constraints import ARGUMENTS, Interval
from dashpot.optimizers.base import Optimizer
from dashpot.schedules.hyperparams import is_pair
from dashpot.utils.scalars import is_number, read


class _Marked(float):
    """A number that is found again by identity in the recipe built from it."""


def group_settings(optimizer: Optimizer, group: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a group as Python numbers, with tensors on the CPU read."""
    return {name: read(value) for name, value in optimizer._settings(group).items()}


def recipe_names(optimizer: Optimizer, settings: Mapping[str, Any]) -> dict[str, str]:
    """Return the name in the group for each setting of the recipe that a group stores, such as `beta`: `betas[1]`.

    Settings that the class derives from others, such as the zero of NAG, are absent.
    """
    marks: dict[str, float] = {}
    marked: dict[str, Any] = {}
    for name, value in settings.items():
        if is_pair(value):
            names = [f"{name}[{index}]" for index in range(2)]
            marks |= {key: _Marked(item) for key, item in zip(names, value, strict=True)}
            marked[name] = tuple(marks[key] for key in names)
        elif _is_continuous(name, value):
            marked[name] = marks[name] = _Marked(value)
        else:
            marked[name] = value
    built = optimizer._built(marked).settings()
    return {field: name for field, value in built.items() for name, mark in marks.items() if value is mark}


def _is_continuous(name: str, value: Any) -> bool:
    allowed = ARGUMENTS.get(name)
    is_continuous = isinstance(allowed, Interval) and not allowed.integer
    return type(value) is float or (is_continuous and is_number(value))
