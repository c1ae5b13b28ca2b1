"""Present settings for advice: of a recipe, an optimizer of dashpot or torch, or the header of a record."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch

from dashpot.analysis.torch_counterpart import adopted
from dashpot.constraints import shown
from dashpot.errors import ArgumentError
from dashpot.optimizers.base import Optimizer
from dashpot.optimizers.registry import METHODS
from dashpot.optimizers.setting_names import group_settings
from dashpot.recipes.recipe import Recipe
from dashpot.watching.series import WatchRecord


def settings_of(given: Any) -> Recipe | Optimizer | str:
    """Return the settings as a recipe or an optimizer of dashpot, or the reason why they are unknown."""
    if isinstance(given, Recipe):
        return given
    if isinstance(given, WatchRecord):
        return _of_header(given.header)
    if not isinstance(given, torch.optim.Optimizer):
        raise ArgumentError(f"advise: recipe_or_optimizer must be a Recipe or a torch optimizer, got {shown(given)}.")
    view = adopted(given)
    if view is None:
        return _unknown(type(given).__module__, type(given).__qualname__)
    if all("initial_lr" not in group for group in given.param_groups):
        return view
    rates = [group.get("initial_lr", group["lr"]) for group in given.param_groups]
    own = [group_settings(view, group) for group in view.param_groups]
    return _made(type(view), [{**settings, "lr": float(lr)} for settings, lr in zip(own, rates, strict=True)])


def recipe_of(given: Recipe | Optimizer) -> Recipe:
    """Return the recipe of the first group, without schedules."""
    return given if isinstance(given, Recipe) else given._built(group_settings(given, given.param_groups[0]))


def _of_header(header: Mapping[str, Any]) -> Optimizer | str:
    name, module = header.get("optimizer"), header.get("module") or ""
    cls: Any = next((row.cls for row in METHODS.values() if row.cls.__name__ == name), None)
    if cls is None or not module.startswith(("dashpot.", "torch.optim.")):
        return _unknown(module, str(name))
    names = inspect.signature(cls.preset).parameters
    groups = [dict(group) for group in header.get("groups", [])]
    for group in groups:
        group["lr"] = group.get("initial_lr", group.get("lr"))
    try:
        return _made(cls, [{key: _tuple(group[key]) for key in names if key in group} for group in groups])
    except (ArgumentError, TypeError, ValueError) as error:
        return f"The settings in the record are invalid: {error}"


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _made(cls: Any, settings: list[dict[str, Any]]) -> Optimizer:
    """Return an optimizer with the settings, with one weight a group."""
    return cls([{"params": [torch.zeros(1, requires_grad=True)], **own} for own in settings])


def _unknown(module: str, name: str) -> str:
    return f"The update rule of {module}.{name} is unknown."
