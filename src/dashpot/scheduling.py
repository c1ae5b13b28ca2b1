"""Schedules of settings: reading what the caller gave, checking it, and writing it into a recipe."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dashpot import knobs
from dashpot.constraints import NONNEGATIVE, Interval, Scalar, check, shown
from dashpot.errors import ArgumentError
from dashpot.schedules import Schedule

if TYPE_CHECKING:
    from dashpot.recipe import Recipe

__all__ = ["carried", "check_schedules", "lr_in_force", "schedules_by_name"]


def lr_in_force(schedule: Schedule | None, lr: Scalar, step: int) -> tuple[float, Scalar]:
    """(factor, base rate) at `step`; an absolute schedule of lr replaces the base rate and has factor 1."""
    if schedule is None:
        return 1.0, lr
    if schedule.absolute:
        return 1.0, schedule(step)
    factor = schedule(step)
    check(type(schedule).__name__, "the factor on lr", factor, Interval() if schedule.signed else NONNEGATIVE)
    return factor, lr


def schedules_by_name(owner: str, schedule: Any) -> dict[str, Schedule]:
    """`schedule` as a mapping from the names of settings to schedules; one schedule alone is lr's."""
    items = {"lr": schedule} if isinstance(schedule, Schedule) else {} if schedule is None else schedule
    if not isinstance(items, Mapping) or not all(isinstance(item, Schedule) for item in items.values()):
        raise ArgumentError(
            f"{owner}: schedule must be None, a Schedule or a mapping of names to Schedules, got {shown(schedule)}."
        )
    return dict(items)


def check_schedules(owner: str, settings: Mapping[str, Any], schedules: Mapping[str, Schedule]) -> None:
    """Raise `ArgumentError` for a schedule of something that is no setting, no number, or scheduled twice."""
    places: dict[Any, str] = {}
    for name in schedules:
        value = knobs.read(settings, name)
        if knobs.is_pair(value):
            raise ArgumentError(f"{owner}: {name} is a pair: schedule its entries, {name}[0] or {name}[1].")
        check(owner, f"the scheduled {name}", value, Interval())
        place = knobs.locate(settings, name)
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
    probes = {name: _probe(knobs.read(settings, name)) for name in schedules if name != "lr"}
    for name, probe in probes.items():
        knobs.write(settings, name, probe)
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
