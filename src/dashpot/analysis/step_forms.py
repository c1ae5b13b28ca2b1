"""Form of a method's step recursion: the stages before, in and after its filter."""

from __future__ import annotations

from typing import NamedTuple

from dashpot.recipes.recipe import BoundStage, Recipe
from dashpot.stages import (
    AdaptiveClip,
    ClipElements,
    CoupledDecay,
    Filter,
    NesterovMoment,
    Stage,
)

_CONSTANT = {"exact", "none", "autosgm"}  # values of `normalise` for which only the output scale depends on the step


class StepForm(NamedTuple):
    """Position of the filter in a recipe.

    Attributes:
        entry: Index of the first active stage that belongs to the filter or to the learning rate. The signal before it
            is the input of the recursion.
        filtered: Whether the stage at `entry` is the filter. Otherwise the recursion has pole 0.
        reason: Reason why the step has no first-order recursion, or None.
    """

    entry: int
    filtered: bool
    reason: str | None = None


def step_form(recipe: Recipe) -> StepForm:
    """Return the form of a recipe, from its active stages.

    >>> import dashpot as dp
    >>> step_form(dp.AdamW.recipe_for()), step_form(dp.RMSprop.recipe_for(momentum=0.9))
    (StepForm(entry=0, filtered=True, reason=None), StepForm(entry=1, filtered=True, reason=None))
    >>> step_form(dp.Sophia.recipe_for()).reason
    'ClipElements limits each element of the direction, so that the change is not linear in the filtered gradient'
    """
    stages = [line.stage for line in recipe.bound_stages]
    filters = [index for index, stage in enumerate(stages) if is_filter(stage)]
    if len(filters) > 1:
        return StepForm(filters[0], True, f"{len(filters)} filters in sequence give a recursion of higher order")
    if filters:
        reasons = (_reason_after_filter(stage) for stage in stages[filters[0] + 1 :])
        return StepForm(filters[0], True, next((reason for reason in reasons if reason), None))
    # Without a filter, the recursion begins after the last stage that does not only scale the direction.
    inputs = [i for i, s in enumerate(stages) if isinstance(s, (AdaptiveClip, CoupledDecay)) or _reason_after_filter(s)]
    return StepForm(max(inputs, default=-1) + 1, False)


def is_filter(stage: Stage) -> bool:
    """Return True for a linear filter with one memory slot."""
    return isinstance(stage, (Filter, NesterovMoment))


def has_constant_pole(line: BoundStage) -> bool:
    """Return True if the output of a filter is that of a time-invariant filter, multiplied by a scalar of the step."""
    stage = line.stage
    return isinstance(stage, Filter) and stage.normalise in _CONSTANT and stage.start != "first"


def _reason_after_filter(stage: Stage) -> str | None:
    """Return the reason why a stage after the filter prevents a recursion, or None."""
    name = type(stage).__name__
    if isinstance(stage, ClipElements):
        return f"{name} limits each element of the direction, so that the change is not linear in the filtered gradient"
    if isinstance(stage, CoupledDecay):
        return f"{name} after the filter replaces the filtered gradient by the gradient"
    if not type(stage).__module__.startswith("dashpot."):
        return f"{name} is a custom stage, whose effect on the direction is unknown"
    return None
