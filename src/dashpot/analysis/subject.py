"""Current recipes: the settings of a recipe or optimizer at a step, without schedules."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch

from dashpot.analysis.recipe_argument import option_limits
from dashpot.analysis.schedule_part import course
from dashpot.analysis.torch_counterpart import counterpart
from dashpot.analysis.travel import rates
from dashpot.analysis.wording import joined
from dashpot.constraints import shown
from dashpot.errors import ArgumentError
from dashpot.names import VARIANTS
from dashpot.optimizers.base import Optimizer
from dashpot.optimizers.group_settings import constructor_arguments
from dashpot.optimizers.registry import METHODS
from dashpot.recipes.recipe import Recipe
from dashpot.schedules import Schedule
from dashpot.schedules.notebook import span
from dashpot.stages.base import Stage, replaced
from dashpot.utils.format import counted, ranges
from dashpot.utils.scalars import read

_LONGEST = 100_000  # steps of a schedule whose course is described


class Subject(NamedTuple):
    """A recipe to explain.

    Attributes:
        label: The parameter groups with this recipe; empty for a single recipe.
        name: Subject of sentences, such as AdamW.
        recipe: Current settings, without schedules.
        owner: The optimizer or recipe to which the settings belong; for an optimizer of torch, its counterpart.
        group: Index of the first parameter group with this recipe.
        notes: Circumstances of the settings, as sentences.
    """

    label: str
    name: str
    recipe: Recipe
    owner: Any
    group: int = 0
    notes: tuple[str, ...] = ()


def subjects(x: Any, step: int | None, settings: Mapping[str, Any]) -> list[Subject]:
    """Return the distinct recipes of a recipe, an optimizer, or a method with settings."""
    if isinstance(x, str) or (isinstance(x, type) and issubclass(x, torch.optim.Optimizer)):
        x = _optimizer(x, settings)
        if step is None:
            step = _peak_step(getattr(x, "schedule", {}))
    elif settings:
        raise ArgumentError(
            f"explain: settings are accepted only with a name or class of a method, got {', '.join(settings)}."
        )
    if isinstance(x, Recipe):
        return [_of_recipe(x, _peak_step(dict(x.schedule)) if step is None else step)]
    if isinstance(x, Optimizer):
        return _of_groups(x, x.steps_done() if step is None else step)
    if isinstance(x, torch.optim.Optimizer):
        return _of_torch(x)
    raise ArgumentError(
        "explain: x must be a Recipe, an optimizer or its class, a Schedule, or the name of a method or schedule, "
        f"got {shown(x)}."
    )


def _optimizer(method: str | type, settings: Mapping[str, Any]) -> torch.optim.Optimizer:
    """Create an optimizer for a single weight; `pole` and `momentum` denote the same setting of dashpot's classes."""
    family, variant = VARIANTS.get(method, (method, {})) if isinstance(method, str) else (method, {})
    cls: Any = METHODS[family].cls if isinstance(family, str) else family
    aliases: dict[str, str] = {}
    if issubclass(cls, Optimizer):
        own = constructor_arguments(cls)
        aliases = {a: b for a, b in (("momentum", "pole"), ("pole", "momentum")) if a not in own and b in own}
    given = {**variant, **{aliases.get(key, key): value for key, value in settings.items()}}
    try:
        return cls([torch.zeros(1, requires_grad=True)], **given)
    except ArgumentError:
        raise
    except (TypeError, ValueError) as error:
        raise ArgumentError(str(error)) from error


def _of_recipe(recipe: Recipe, step: int) -> Subject:
    in_force, factor = recipe.at(step)
    return Subject(
        "", "The method", _folded(in_force, factor, factor), recipe, 0, _scheduled(dict(recipe.schedule), step)
    )


def _of_groups(optimizer: Optimizer, step: int) -> list[Subject]:
    found: dict[Any, tuple[list[int], Subject]] = {}
    name = type(optimizer).__name__
    notes = (*_scheduled(optimizer.schedule, step), *option_limits(optimizer))
    for index, group in enumerate(optimizer.param_groups):
        in_force, factor, window = optimizer._resolve(group, optimizer._settings(group), step)
        recipe = _folded(in_force, factor, window)
        subject = Subject("", name, recipe, optimizer, index, notes)
        found.setdefault(recipe, ([], subject))[0].append(index)
    return _labelled(list(found.values()))


def _labelled(found: Sequence[tuple[list[int], Subject]]) -> list[Subject]:
    if len(found) == 1:
        return [found[0][1]]
    return [subject._replace(label=f"group{'s' * (len(of) > 1)} {ranges(of)}") for of, subject in found]


def _folded(recipe: Recipe, factor: Any, window: Any) -> Recipe:
    """Return a recipe with the factor of the schedule included in lr and in decays that are scaled by the schedule."""
    stages = [_with_window(stage, window) for stage in recipe.stages]
    folded = Recipe(*stages, lr=read(recipe.lr) * float(factor))
    values = {name: read(value) for name, value in folded.settings().items()}
    return folded.with_settings(**values)


def _with_window(stage: Stage, window: Any) -> Stage:
    fields = {field.name for field in dataclasses.fields(stage)}  # pyright: ignore[reportArgumentType]
    if {"scale", "weight_decay"} <= fields and stage.scale == "schedule":  # pyright: ignore[reportAttributeAccessIssue]
        decay = stage.weight_decay  # pyright: ignore[reportAttributeAccessIssue]
        return replaced(stage, weight_decay=read(decay) * float(window), scale="constant")
    return stage


def _peak_step(schedules: Mapping[str, Schedule]) -> int:
    """Return the step with the highest learning rate within the span of its schedule; 0 without a schedule of lr."""
    schedule = schedules.get("lr")
    if schedule is None:
        return 0
    steps = span(schedule)
    places = sorted({round(i * steps / 1000) for i in range(1001)})
    return max(places, key=schedule)


def _scheduled(schedules: Mapping[str, Schedule], step: int) -> tuple[str, ...]:
    if not schedules:
        return ()
    names = joined(list(schedules))
    names = f"the schedules change {names}" if len(schedules) > 1 else f"the schedule changes {names}"
    is_peak = "lr" in schedules and step > 0 and step == _peak_step(schedules)
    peak = ", where the learning rate is highest" if is_peak else ""
    notes = (f"Values after {counted(step, 'step')}{peak}; {names}.",)
    steps = span(schedules["lr"]) if "lr" in schedules else 0
    if not 1 < steps <= _LONGEST:
        return notes
    return (*notes, course("The factor of lr", rates(schedules["lr"], steps, 1.0)))


def _of_torch(optimizer: torch.optim.Optimizer) -> list[Subject]:
    return _of_groups(counterpart(optimizer, "explain"), 0)
