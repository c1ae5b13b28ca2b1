"""Changes of the settings of one recipe or parameter group for a different batch size."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from dashpot.analysis.batch_rules import Scaling, StageRule, dc_gain, divides, stage_rule
from dashpot.analysis.batch_targets import Target, active_stages, setting_names
from dashpot.analysis.linear_form import linear_form
from dashpot.analysis.quadratic_stability import stability
from dashpot.analysis.rounding import tidy
from dashpot.analysis.stationary_variance import temperature
from dashpot.constraints import Interval, check
from dashpot.errors import ArgumentError
from dashpot.recipes.recipe import Recipe
from dashpot.stages import ChangeDecay, CoupledDecay, DecoupledDecay


class Change(NamedTuple):
    """A changed setting: name, old value, new value, and reason."""

    name: str
    before: Any
    after: Any
    reason: str


class Kept(NamedTuple):
    """An unchanged setting: name, value, and reason."""

    name: str
    value: Any
    reason: str


@dataclass(frozen=True)
class GroupScaling:
    """Changes of one recipe or parameter group.

    Attributes:
        before: Recipe before the change, without schedules.
        recipe: Recipe after the change, without schedules.
        changes: Changed settings.
        kept: Unchanged settings with reasons.
        settings: New values by argument; a pair such as `betas` is complete.
        shrink: Assumed factor d/d' by which the denominator decreases; 1 without a denominator.
        scaling: The change of the batch size.
        limits: Conditions under which the rule holds, as sentences.
    """

    before: Recipe
    recipe: Recipe
    changes: tuple[Change, ...]
    kept: tuple[Kept, ...]
    settings: dict[str, Any]
    shrink: float
    scaling: Scaling
    limits: tuple[str, ...]

    @property
    def stable_before(self) -> float | None:
        """Largest stable curvature before the change; with a denominator d, of h/d. None if it is undefined."""
        return stability(self.before, **self._unit(1.0)).largest_curvature

    @property
    def stable_after(self) -> float | None:
        """Largest stable curvature after the change, in the units of `stable_before`."""
        return stability(self.recipe, **self._unit(1 / self.shrink)).largest_curvature

    @cached_property
    def accurate_curvature(self) -> float | None:
        """Curvature up to which the temperature changes by at most 10 %, in the units of `stable_before`.

        None if the temperature changes for small curvatures as well, or is undefined.
        """
        before, after = self.stable_before, self.stable_after
        if before is None or after is None or not 0 < min(before, after) < math.inf:
            return None
        highest = min(before, after) * (1 - 1e-6)
        grid = [highest * 10**power for power in (-6, -4, -3, *(-k / 8 for k in range(20, -1, -1)))]
        if not self._is_accurate(grid[0]):
            return None
        low = grid[0]
        for high in grid[1:]:
            if not self._is_accurate(high):
                return bisected(self._is_accurate, low, high)
            low = high
        return highest

    def _is_accurate(self, curvature: float) -> bool:
        before, after = self._variances(curvature)
        return before is not None and after is not None and abs(after / before - 1) <= 0.1

    def temperature_ratio(self, curvature: float) -> float:
        """Return the stationary variance after the change over that before; see `BatchScaling.temperature_ratio`."""
        check("temperature_ratio", "curvature", curvature, Interval(0))
        before, after = self._variances(curvature)
        if before is None or after is None:
            when = "before" if before is None else "after"
            raise ArgumentError(
                f"temperature_ratio: the settings {when} the change must have a stationary variance at curvature "
                f"{curvature:g}."
            )
        return after / before

    def _variances(self, curvature: float) -> tuple[float | None, float | None]:
        """Return the stationary variances before and after the change for unit noise of the old batch."""
        before = temperature(self.before, curvature, **self._unit(1.0))
        after = temperature(self.recipe, curvature, noise=1 / self.scaling.ratio, **self._unit(1 / self.shrink))
        return before.variance, after.variance

    def _unit(self, denominator: float) -> dict[str, Any]:
        """Return the argument for a denominator, which is 1 before the change."""
        return {"denominator": denominator} if linear_form(self.before).adaptive else {}


def scale_target(target: Target, scaling: Scaling, *, is_forced: bool) -> GroupScaling:
    """Return the changes of a recipe or parameter group.

    Args:
        target: The settings.
        scaling: The change of the batch size.
        is_forced: Whether stages without a rule are unchanged, instead of an error.
    """
    before = target.recipe
    rules = {index: stage_rule(stage, scaling) for index, stage in active_stages(before)}
    limits = _outside(before, rules, is_forced)
    names = setting_names(before)
    edits = {names[index, field]: edit for index, rule in rules.items() for field, edit in rule.edits.items()}
    middle = target.edited({name: edit.value for name, edit in edits.items()})

    shrink = math.prod(rule.shrink for rule in rules.values())
    gain = dc_gain(middle.recipe) / dc_gain(before)
    progress = scaling.progress if divides(before) or scaling.rule == "linear" else math.sqrt(scaling.progress)
    reasons = {name: edit.reason for name, edit in edits.items()}
    lr_factor = progress / (shrink * gain)
    values = {"lr": tidy(float(before.lr) * lr_factor)}
    reasons["lr"] = _lr_reason(progress, shrink, gain, scaling)
    decays, kept = _decays(before, middle.recipe, names, progress, lr_factor)
    values |= {name: value for name, (value, _) in decays.items()}
    reasons |= {name: reason for name, (_, reason) in decays.items()}
    kept |= {names[index, field]: why for index, rule in rules.items() for field, why in rule.kept.items()}
    after = middle.edited(values)

    changes, unchanged = _differences(target, after, reasons, kept)
    limits += [text for rule in rules.values() for text in rule.limits]
    limits += _decay_limits(after.recipe)
    return GroupScaling(
        before=before,
        recipe=after.recipe,
        changes=changes,
        kept=unchanged,
        settings=after.arguments([change.name for change in changes]),
        shrink=shrink,
        scaling=scaling,
        limits=tuple(limits),
    )


def bisected(holds: Callable[[float], bool], low: float, high: float) -> float:
    """Return the largest number in [low, high] for which a condition holds, given that it holds at `low` only."""
    while high - low > 1e-5 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


def _outside(recipe: Recipe, rules: Mapping[int, StageRule], is_forced: bool) -> list[str]:
    """Return the stages without a rule as limits, or raise."""
    found = [(type(recipe.stages[index]).__name__, rule.outside) for index, rule in rules.items() if rule.outside]
    if found and not is_forced:
        name, reason = found[0]
        raise ArgumentError(
            f"scale_batch: no rule covers the stage {name}: {reason}. With rule='linear' or rule='sqrt', the other "
            f"settings are scaled and {name} is unchanged."
        )
    return [f"{name} is unchanged: {reason}." for name, reason in found]


def _lr_reason(progress: float, shrink: float, gain: float, scaling: Scaling) -> str:
    if not math.isinf(scaling.noise):
        text = f"at this noise scale, a step advances by {scaling.progress:.4g} old steps"
        text += f"; the denominator decreases by a factor of {shrink:.4g}" if shrink != 1 else ""
    elif progress != scaling.ratio:
        text = "the square root of the batch ratio: the variance of an update is constant, the temperature decreases"
    elif shrink == 1:
        text = "proportional to the batch: equal mean step and equal noise per example"
    else:
        text = f"the denominator decreases by a factor of {shrink:.4g}: lr/d is proportional to the batch"
    if not math.isclose(gain, 1, rel_tol=1e-9):
        text += f"; divided by {gain:.4g}, the change of the filter's DC gain"
    return text


def _decays(
    before: Recipe, middle: Recipe, names: Mapping[tuple[int, str], str], progress: float, lr_factor: float
) -> tuple[dict[str, tuple[float, str]], dict[str, str]]:
    """Return the new values of decoupled decay with reasons, and the reasons for unchanged coupled decay."""
    edits: dict[str, tuple[float, str]] = {}
    kept: dict[str, str] = {}
    change_decays = iter([stage for stage in middle.active() if isinstance(stage, ChangeDecay)])
    for index, stage in active_stages(before):
        if isinstance(stage, CoupledDecay):
            kept[names[index, "weight_decay"]] = "part of the loss, whose minimum does not depend on the batch"
            continue
        if not isinstance(stage, (DecoupledDecay, ChangeDecay)):
            continue
        by_rate = stage.scale == "lr"
        scale = progress / lr_factor if by_rate else progress
        if isinstance(stage, ChangeDecay):
            scale *= float(stage.factor) / float(next(change_decays).factor)
        name = names[index, "weight_decay"]
        if math.isclose(scale, 1, rel_tol=1e-9):
            kept[name] = "lr is proportional to the batch, so that the weights shrink equally per example"
            continue
        unit = "lr weight_decay" if by_rate else "the decay per step"
        reason = f"{unit} is proportional to the mean step, so that decay and gradient keep their ratio"
        edits[name] = (tidy(float(stage.weight_decay) * scale), reason)
    return edits, kept


def _decay_limits(recipe: Recipe) -> list[str]:
    limits = []
    for stage in recipe.active():
        if isinstance(stage, (DecoupledDecay, ChangeDecay)):
            factor = float(stage.factor) if isinstance(stage, ChangeDecay) else 1.0
            share = float(stage.weight_decay) * factor * (float(recipe.lr) if stage.scale == "lr" else 1.0)
            if share >= 1:
                limits.append(
                    f"Weight decay subtracts {share:.4g} times the weight per step and overshoots zero: the batch is "
                    "too large for this decay."
                )
    return limits


def _differences(
    before: Target, after: Target, reasons: Mapping[str, str], kept: Mapping[str, str]
) -> tuple[tuple[Change, ...], tuple[Kept, ...]]:
    """Return the changed and the unchanged settings, by the names that the user can set."""
    changes, unchanged = [], []
    for setting in ("lr", *before.recipe.settings()):
        name = before.name(setting)
        if name is None:
            continue
        old, new = before.value(name), after.value(name)
        if old != new and setting not in reasons:  # stages share the setting, as AutoSGM's eps
            continue
        if old != new:
            changes.append(Change(name, float(old), float(new), reasons[setting]))
        elif setting in kept or setting in reasons:
            unchanged.append(Kept(name, old, kept.get(setting, reasons.get(setting, ""))))
    return tuple(changes), tuple(unchanged)
