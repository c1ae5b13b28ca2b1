"""Recipes and parameter groups as settings that a change of the batch size edits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from dashpot.constraints import shown
from dashpot.errors import ArgumentError
from dashpot.optimizers.base import Optimizer
from dashpot.optimizers.setting_names import group_settings, recipe_names
from dashpot.recipes.recipe import Recipe
from dashpot.schedules import hyperparams
from dashpot.stages import Stage
from dashpot.utils.scalars import read


class Target(Protocol):
    """Settings with a recipe."""

    @property
    def recipe(self) -> Recipe: ...

    def name(self, setting: str) -> str | None: ...

    def value(self, name: str) -> Any: ...

    def arguments(self, names: Iterable[str]) -> dict[str, Any]: ...

    def edited(self, values: Mapping[str, float]) -> Target: ...


class RecipeTarget(NamedTuple):
    """A recipe without schedules, whose settings are Python numbers."""

    recipe: Recipe

    def name(self, setting: str) -> str | None:
        """Return the name of a setting of the recipe as the user writes it; None if it cannot be set."""
        return setting

    def value(self, name: str) -> Any:
        """Return the value of a setting."""
        return self.recipe.lr if name == "lr" else self.recipe.settings()[name]

    def arguments(self, names: Iterable[str]) -> dict[str, Any]:
        """Return the named settings as arguments of `Recipe.with_settings`."""
        return {name: self.value(name) for name in names}

    def edited(self, values: Mapping[str, float]) -> RecipeTarget:
        """Return the target with changed settings."""
        return RecipeTarget(self.recipe.with_settings(**values))


class GroupTarget:
    """Settings of a parameter group, from which its optimizer builds the recipe."""

    def __init__(self, optimizer: Optimizer, settings: Mapping[str, Any]) -> None:
        self.optimizer, self.settings = optimizer, dict(settings)
        self.recipe = optimizer._built(self.settings)
        self._names = {**recipe_names(optimizer, settings), "lr": "lr"}

    def name(self, setting: str) -> str | None:
        """Return the key of a setting of the recipe; None if the class derives it from other settings."""
        return self._names.get(setting)

    def value(self, name: str) -> Any:
        """Return the value of a key of the group, or of an entry of a pair."""
        return hyperparams.read(self.settings, name)

    def arguments(self, names: Iterable[str]) -> dict[str, Any]:
        """Return the named settings as arguments of the class; pairs are complete."""
        keys = [hyperparams.locate(self.settings, name)[0] for name in names]
        return {self.optimizer._argument(key): self.settings[key] for key in keys}

    def edited(self, values: Mapping[str, float]) -> GroupTarget:
        """Return the target with changed settings; derived settings follow."""
        settings = dict(self.settings)
        for setting, value in values.items():
            name = self.name(setting)
            if name is not None:
                hyperparams.write(settings, name, value)
        return GroupTarget(self.optimizer, settings)


def targets_of(given: Any) -> list[Target]:
    """Return the target of a recipe, or one target for each group of an optimizer.

    Raises:
        ArgumentError: If `given` is neither, or a setting is a tensor that cannot be read.
    """
    if isinstance(given, Recipe):
        recipe = given.with_settings(schedule=None)
        values = {"lr": recipe.lr, **recipe.settings()}
        numbers = {name: read(value) for name, value in values.items()}
        _check_numbers(numbers)
        return [RecipeTarget(recipe.with_settings(**numbers))]
    if isinstance(given, Optimizer):
        groups = [group_settings(given, group) for group in given.param_groups]
        for settings in groups:
            _check_numbers(settings)
        return [GroupTarget(given, settings) for settings in groups]
    raise ArgumentError(
        f"scale_batch: recipe_or_optimizer must be a Recipe or a dashpot optimizer, got {shown(given)}{_hint(given)}."
    )


def _hint(given: Any) -> str:
    """Return the alternative for a class or an optimizer of torch."""
    if isinstance(given, type) and issubclass(given, Optimizer):
        return f"; {given.__name__}.recipe_for(...) is its recipe"
    if isinstance(given, torch.optim.Optimizer):
        return "; dashpot.explain with batch_size and to_batch also scales optimizers of torch"
    return ""


def _check_numbers(settings: Mapping[str, Any]) -> None:
    for name, value in settings.items():
        for item in value if hyperparams.is_pair(value) else (value,):
            if isinstance(item, Tensor):
                raise ArgumentError(
                    f"scale_batch: {name} must be a number or a tensor on the CPU, got a tensor on {item.device}."
                )


def setting_names(recipe: Recipe) -> dict[tuple[int, str], str]:
    """Return the name in `recipe.settings()` for the stage index and field of each setting."""
    places = [
        (index, field)
        for index, stage in enumerate(recipe.stages)
        for field in stage.numeric()
        if getattr(stage, field) is not None
    ]
    return dict(zip(places, recipe.settings(), strict=True))


def active_stages(recipe: Recipe) -> list[tuple[int, Stage]]:
    """Return the stages that are not no-ops, with their indices."""
    return [(index, stage) for index, stage in enumerate(recipe.stages) if not stage.is_noop()]
