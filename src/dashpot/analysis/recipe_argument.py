"""The recipe of an argument: a recipe, a filter stage, or an optimizer whose groups have the same recipe."""

from __future__ import annotations

from typing import Any

import torch

from dashpot.constraints import shown
from dashpot.errors import ArgumentError
from dashpot.optimizers.base import Optimizer
from dashpot.recipes.recipe import Recipe
from dashpot.stages import Filter, NesterovMoment, Stage


def recipe_of(owner: str, value: Any) -> tuple[Recipe, list[str]]:
    """Return a recipe, and limits due to the options of an optimizer.

    Args:
        owner: Name of the calling function, for error messages.
        value: A recipe; a `Filter` or `NesterovMoment` stage, which has a rate of 1; or an optimizer.

    Raises:
        ArgumentError: If `value` has another type, or the groups of the optimizer have different recipes.
    """
    if isinstance(value, Recipe):
        return value, []
    if isinstance(value, (Filter, NesterovMoment)):
        return Recipe(value, lr=1.0), []
    if isinstance(value, Optimizer):
        return _recipe_of_groups(owner, value), option_limits(value)
    allowed = f"{owner}: recipe must be a Recipe, an optimizer of dashpot, a Filter or a RationalFilter"
    raise ArgumentError(f"{allowed}, got {_got(value)}.")


def _recipe_of_groups(owner: str, optimizer: Optimizer) -> Recipe:
    recipes = dict.fromkeys(optimizer._recipe_with_schedules(group) for group in optimizer.param_groups)
    if len(recipes) > 1:
        raise ArgumentError(
            f"{owner}: recipe must be one recipe, got an optimizer whose groups have {len(recipes)} different recipes; "
            "dashpot.explain describes each group."
        )
    return next(iter(recipes))


def option_limits(optimizer: Optimizer) -> list[str]:
    """Return the limits due to options of an optimizer that its recipe does not contain."""
    options, found = optimizer.options, []
    clips = [f"{name}={getattr(options, name):g}" for name in ("max_norm", "clip_value") if getattr(options, name)]
    if clips:
        verb = "clip" if len(clips) > 1 else "clips"
        found.append(f"{' and '.join(clips)} {verb} gradients; the results hold while no gradient is clipped.")
    if any(group["maximize"] for group in optimizer.param_groups):
        found.append("maximize=True negates gradients: the curvature is that of the negated objective.")
    return found


def _got(value: Any) -> str:
    """Return the value for a message, with the expression that gives its recipe."""
    if isinstance(value, type) and issubclass(value, Optimizer):
        return f"the class {value.__name__}; {value.__name__}.recipe_for(...) is its recipe"
    if isinstance(value, torch.optim.Optimizer):
        return f"{type(value).__name__} of {type(value).__module__.rpartition('.')[0]}; dashpot.explain accepts it"
    if isinstance(value, str):
        return f"{shown(value)}; dashpot.explain accepts names of methods"
    if isinstance(value, Stage):
        name = type(value).__name__
        return f"the stage {name}; Recipe({name}(...), lr=...) is a recipe"
    return shown(value)
