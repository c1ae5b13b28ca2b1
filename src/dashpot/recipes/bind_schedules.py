"""Validation of the schedules of optimizer settings, and their transfer to a recipe."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dashpot.constraints import Interval, check
from dashpot.errors import ArgumentError
from dashpot.schedules import Schedule, hyperparams

if TYPE_CHECKING:
    from dashpot.recipes.recipe import Recipe


def check_schedules(owner: str, settings: Mapping[str, Any], schedules: Mapping[str, Schedule]) -> None:
    """Raise `ArgumentError` if a scheduled setting does not exist, is not a number, or is scheduled twice."""
    places: dict[Any, str] = {}
    for name in schedules:
        value = hyperparams.read(settings, name)
        if hyperparams.is_pair(value):
            raise ArgumentError(f"{owner}: {name} is a pair: schedule its entries, {name}[0] or {name}[1].")
        check(owner, f"the scheduled {name}", value, Interval())
        place = hyperparams.locate(settings, name)
        if place in places:
            raise ArgumentError(f"{owner}: {places[place]} and {name} are the same setting; pass one schedule.")
        places[place] = name


def bind_schedules(
    owner: str,
    build: Callable[[dict[str, Any]], Recipe],
    settings: dict[str, Any],
    schedules: Mapping[str, Schedule],
) -> Recipe:
    """Return the recipe `build(settings)` with schedules attached to the corresponding recipe settings.

    To find the recipe setting that corresponds to a scheduled number, `build` is called with a distinct tensor instead
    of each scheduled number, and this tensor is located in the recipe.

    Raises:
        ArgumentError: If `build` applies a formula to a scheduled setting, so that the recipe does not contain the
            tensor itself.
    """
    probes = {name: _probe(hyperparams.read(settings, name)) for name in schedules if name != "lr"}
    for name, probe in probes.items():
        hyperparams.write(settings, name, probe)
    recipe = build(settings)
    schedule = {name: item for name, item in schedules.items() if name == "lr"}
    bases: dict[str, float] = {}
    for field, value in recipe.settings().items():
        names = [name for name, probe in probes.items() if probe is value]
        if names:
            schedule[field], bases[field] = schedules[names[0]], float(value)
        elif probes and isinstance(value, Tensor) and all(value is not given for given in settings.values()):
            raise ArgumentError(
                f"{owner}: the schedule of {' and '.join(probes)} cannot be part of a recipe, "
                f"since {field} is computed from it."
            )
    return recipe.with_settings(schedule=schedule, **bases)


def _probe(value: Any) -> Tensor:
    return torch.tensor(float(value), dtype=torch.float64)
