"""Schedules of settings: reading what the caller gave, checking it, and writing it into a recipe."""

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

__all__ = ["carried", "check_schedules"]


def check_schedules(owner: str, settings: Mapping[str, Any], schedules: Mapping[str, Schedule]) -> None:
    """Raise `ArgumentError` for a schedule of something that is no setting, no number, or scheduled twice."""
    places: dict[Any, str] = {}
    for name in schedules:
        value = hyperparams.read(settings, name)
        if hyperparams.is_pair(value):
            raise ArgumentError(f"{owner}: {name} is a pair: schedule its entries, {name}[0] or {name}[1].")
        check(owner, f"the scheduled {name}", value, Interval())
        place = hyperparams.locate(settings, name)
        if place in places:
            raise ArgumentError(f"{owner}: {places[place]} and {name} are one setting; give it one schedule.")
        places[place] = name


def carried(
    owner: str,
    build: Callable[[dict[str, Any]], Recipe],
    settings: dict[str, Any],
    schedules: Mapping[str, Schedule],
) -> Recipe:
    """The recipe that `build` makes of `settings`, with the schedules on those of its settings that are scheduled.

    Which these are shows a probe, a tensor in the place of each scheduled number: it comes out in the recipe as it went
    in, or as another tensor where a formula was applied to it. Raises `ArgumentError` in the second case.
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
                f"{owner}: a recipe cannot carry the schedule of {' and '.join(probes)}, "
                f"which moves {field} by a formula."
            )
    return recipe.with_settings(schedule=schedule, **bases)


def _probe(value: Any) -> Tensor:
    return torch.tensor(float(value), dtype=torch.float64)
