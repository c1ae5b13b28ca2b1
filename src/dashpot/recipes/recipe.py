"""Recipe: a complete method as an immutable value."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, cast

from dashpot.constraints import ARGUMENTS, Scalar, check, shown
from dashpot.errors import ArgumentError
from dashpot.recipes.shown_settings import plain, shown_settings
from dashpot.schedules import Schedule
from dashpot.schedules.resolve import lr_in_force, schedules_by_name
from dashpot.stages.base import Clock, Slot, Stage, check_slots, replaced
from dashpot.utils.scalars import read

# torch's names of stage settings, accepted as schedule keys
_TORCH_NAMES = {"momentum": "pole", "betas[0]": "pole", "betas[1]": "beta", "alpha": "beta"}


class BoundStage(NamedTuple):
    """A stage together with its state keys, the named-tuple type of its slots, and its numeric settings."""

    stage: Stage
    keys: tuple[str, ...]
    state_type: Any
    settings: tuple[Any, ...]
    """Numeric settings that are not None; a stage may read these fields directly, without `scalars`."""

    @staticmethod
    def of(stage: Stage) -> BoundStage:
        settings = (getattr(stage, name) for name in stage.numeric())
        keys = tuple(slot.key for slot in stage.slots)
        return BoundStage(stage, keys, stage.state_type(), tuple(value for value in settings if value is not None))


class Recipe:
    """Ordered stages, a learning rate and schedules: the complete definition of a method.

    A recipe is immutable and hashable, has an evaluable `repr`, and is serializable to plain data.

    Args:
        stages: Stages applied to the gradient, in order; see `dashpot.stages`.
        lr: Base learning rate, >= 0: a number or a 0-d tensor.
        schedule: A `Schedule` of lr, or a mapping from setting names (`lr`, `pole`, `zero`, `weight_decay`, `eps`, ...)
            to schedules.

    Attributes:
        slots: State variables of each parameter.
        bound_stages: Active stages with their state keys, as used by the engines.

    Raises:
        ArgumentError: If a positional argument is not a stage, lr is out of range, a scheduled setting does not exist,
            or two stages use the same state key.

    >>> from dashpot import Filter, SecondMoment
    >>> recipe = Recipe(Filter(pole=0.9), SecondMoment(beta=0.99), lr=0.001)
    >>> recipe
    Recipe(Filter(pole=0.9), SecondMoment(beta=0.99), lr=0.001)
    >>> Recipe.from_dict(recipe.to_dict()) == recipe
    True
    >>> diff(recipe, recipe.with_settings(pole=0.95))
    Filter.pole: 0.9 | 0.95
    """

    __slots__ = ("bound_stages", "lr", "schedule", "slots", "stages")

    stages: tuple[Stage, ...]
    lr: Scalar
    schedule: tuple[tuple[str, Schedule], ...]
    slots: tuple[Slot, ...]
    bound_stages: tuple[BoundStage, ...]

    def __init__(
        self, *stages: Stage, lr: Scalar = 1e-3, schedule: Schedule | Mapping[str, Schedule] | None = None
    ) -> None:
        for stage in stages:
            if not isinstance(stage, Stage):
                raise ArgumentError(f"Recipe: every positional argument must be a Stage, got {shown(stage)}.")
            check_slots(type(stage).__name__, stage.slots)
        check("Recipe", "lr", lr, ARGUMENTS["lr"])
        object.__setattr__(self, "stages", stages)
        object.__setattr__(self, "lr", lr)
        object.__setattr__(self, "slots", tuple(slot for stage in stages for slot in stage.slots))
        object.__setattr__(self, "bound_stages", tuple(BoundStage.of(stage) for stage in stages if not stage.is_noop()))
        object.__setattr__(self, "schedule", self._checked_schedule(schedule))
        _refuse_shared_slots(self.slots)

    def _checked_schedule(self, schedule: Any) -> tuple[tuple[str, Schedule], ...]:
        items: dict[str, Schedule] = {}
        for name, item in schedules_by_name("Recipe", schedule).items():
            setting = _TORCH_NAMES.get(name, name)
            if setting != "lr" and setting not in self.settings():
                raise ArgumentError(f"Recipe: no setting {name!r} to schedule; it has {', '.join(self.settings())}.")
            if setting in items:
                raise ArgumentError(f"Recipe: {setting} is scheduled twice, once as {name!r}.")
            items[setting] = item
        return tuple(sorted(items.items()))

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"A recipe is frozen: create a new one with with_settings({name}=...).")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"A recipe is frozen: {name} cannot be deleted.")

    def __reduce__(self) -> Any:
        return _rebuild, (self.stages, self.lr, self.schedule)

    def _key(self) -> tuple[Any, ...]:
        return self.stages, self.lr, self.schedule

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Recipe) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def __repr__(self) -> str:
        parts = [_stage_text(stage) for stage in self.stages]
        parts.append(f"lr={plain(self.lr)!r}")
        if self.schedule:
            schedule = dict(self.schedule)
            parts.append(f"schedule={schedule['lr']!r}" if set(schedule) == {"lr"} else f"schedule={schedule!r}")
        return f"Recipe({', '.join(parts)})"

    def _repr_html_(self) -> str:
        """Return the stages and schedules for notebooks."""
        from dashpot.recipes.notebook import recipe_html

        return recipe_html(self)

    def active(self) -> Iterator[Stage]:
        """Iterate over the stages that are not no-ops with their current settings."""
        return (line.stage for line in self.bound_stages)

    def observes(self) -> bool:
        """Return True for a second-order method, in which a stage uses Hessian-vector products.

        >>> from dashpot import Curvature, SecondMoment
        >>> Recipe(Curvature()).observes(), Recipe(SecondMoment()).observes()
        (True, False)
        """
        return any(stage.observes for stage in self.active())

    def settings(self) -> dict[str, Scalar]:
        """Return all numeric settings except lr by name; repeated names are numbered: `eps`, `eps_2`."""
        return {name: getattr(self.stages[index], field) for name, (index, field) in self._places().items()}

    def _places(self) -> dict[str, tuple[int, str]]:
        places: dict[str, tuple[int, str]] = {}
        for index, stage in enumerate(self.stages):
            for field in stage.numeric():
                if getattr(stage, field) is None:
                    continue
                name, count = field, 2
                while name in places:
                    name, count = f"{field}_{count}", count + 1
                places[name] = (index, field)
        return places

    def with_settings(self, **changes: Any) -> Recipe:
        """Return a copy with changed settings. The names may be `lr`, `schedule`, and any key of `settings()`."""
        lr, schedule = changes.pop("lr", self.lr), changes.pop("schedule", dict(self.schedule))
        places = self._places()
        stages = list(self.stages)
        for name, value in changes.items():
            if name not in places:
                raise ArgumentError(f"Recipe: no setting {name!r}; it has lr, schedule, {', '.join(places)}.")
            index, field = places[name]
            stages[index] = replaced(stages[index], **{field: value})
        return Recipe(*stages, lr=lr, schedule=schedule)

    def at_lr(self, lr: Scalar) -> Recipe:
        """Return a copy with the learning rate `lr`, which must be valid; the copy shares the stages."""
        other = object.__new__(Recipe)
        for name in ("stages", "slots", "bound_stages", "schedule"):
            object.__setattr__(other, name, getattr(self, name))
        object.__setattr__(other, "lr", lr)
        return other

    def at(self, step: int) -> tuple[Recipe, float]:
        """Return the recipe with its scheduled values after `step` completed steps, and the factor of lr's schedule."""
        if not self.schedule:
            return self, 1.0
        schedule = dict(self.schedule)
        lr_schedule = schedule.pop("lr", None)
        settings = self.settings()
        values = {name: item.value(cast(float, settings[name]), step) for name, item in schedule.items()}
        factor, lr = lr_in_force(lr_schedule, self.lr, step)
        return self.with_settings(lr=lr, schedule=None, **values), factor

    def widened(self) -> Recipe:
        """Return a copy with tensor settings converted to 0-d float64 tensors, for arithmetic in double precision."""
        settings = {"lr": self.lr, **self.settings()}
        # Dynamo cannot trace an assignment inside a comprehension.
        wide = {name: read(value, keep=True) for name, value in settings.items()}
        changed = {name: value for name, value in wide.items() if value is not settings[name]}
        return self.with_settings(**changed) if changed else self

    def scalars(self, clock: Clock) -> tuple[Any, ...]:
        """Return the scalars of each active stage at this step, in order."""
        return tuple(stage.prepare(clock) for stage in self.active())

    def warnings(self) -> list[str]:
        """Return warnings about valid but surprising settings."""
        return [text for stage in self.stages if (text := stage.warning())]

    def to_dict(self) -> dict[str, Any]:
        """Return plain data (dicts, lists, numbers, strings) for records and checkpoints."""
        return {
            "stages": [stage.to_dict() for stage in self.stages],
            "lr": plain(self.lr),
            "schedule": {name: item.to_dict() for name, item in self.schedule},
        }

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> Recipe:
        """Rebuild a recipe from `to_dict()`; raise `ArgumentError` if `data` is invalid."""
        for name in ("stages", "lr", "schedule"):
            if not isinstance(data, Mapping) or name not in data:
                raise ArgumentError(f"Recipe: {name} is missing from the description {shown(data)}.")
        stages = [Stage.from_dict(item) for item in data["stages"]]
        schedule = {name: Schedule.from_dict(item) for name, item in data["schedule"].items()}
        return Recipe(*stages, lr=data["lr"], schedule=schedule)


def _rebuild(stages: tuple[Stage, ...], lr: Scalar, schedule: tuple[tuple[str, Schedule], ...]) -> Recipe:
    return Recipe(*stages, lr=lr, schedule=dict(schedule))


def _refuse_shared_slots(slots: tuple[Slot, ...]) -> None:
    keys = [slot.key for slot in slots]
    if "step" in keys:
        raise ArgumentError("Recipe: state key 'step' is reserved for the step count; rename the slot of the stage.")
    for key in keys:
        if keys.count(key) > 1:
            raise ArgumentError(f"Recipe: two stages use the state key {key!r}; rename the slot of one of them.")


def _stage_text(stage: Stage) -> str:
    """Format a stage as an expression with its first setting and all settings that differ from their defaults."""
    settings = ", ".join(f"{name}={value!r}" for name, value in shown_settings(stage))
    return f"{type(stage).__name__}({settings})"


class Diff(NamedTuple):
    """Differences between two recipes: rows of (name, first value, second value)."""

    rows: tuple[tuple[str, Any, Any], ...]

    def __repr__(self) -> str:
        if not self.rows:
            return "no difference"
        return "\n".join(f"{name}: {text_of_value(a)} | {text_of_value(b)}" for name, a, b in self.rows)

    def _repr_html_(self) -> str:
        """Return the differences as a table for notebooks."""
        from dashpot.recipes.notebook import diff_html

        return diff_html(self)


def text_of_value(value: Any) -> str:
    """Return the text of a stage, a setting, or a missing value."""
    return "-" if value is None else _stage_text(value) if isinstance(value, Stage) else repr(plain(value))


def diff(a: Any, b: Any) -> Diff:
    """Return the settings that differ between two recipes or optimizers, and the stages that only one of them has.

    >>> import torch, dashpot as dp
    >>> w = [torch.zeros(2, requires_grad=True)]
    >>> diff(dp.Adam(w, weight_decay=0.1), dp.AdamW(w, weight_decay=0.1))
    CoupledDecay: CoupledDecay(weight_decay=0.1) | -
    DecoupledDecay: - | DecoupledDecay(weight_decay=0.1)
    """
    one, two = _recipe_of(a), _recipe_of(b)
    mine, theirs = _labelled(one), _labelled(two)
    rows: list[tuple[str, Any, Any]] = []
    for name in [*mine, *(name for name in theirs if name not in mine)]:
        rows += _stage_rows(name, mine.get(name), theirs.get(name))
    if [name for name in mine if name in theirs] != [name for name in theirs if name in mine]:
        rows.append(("order", " > ".join(mine), " > ".join(theirs)))
    if plain(one.lr) != plain(two.lr):
        rows.append(("lr", one.lr, two.lr))
    before, after = dict(one.schedule), dict(two.schedule)
    for name in dict.fromkeys([*before, *after]):
        if before.get(name) != after.get(name):
            rows.append((f"schedule of {name}", before.get(name), after.get(name)))
    return Diff(tuple(rows))


def _recipe_of(value: Any) -> Recipe:
    recipe = getattr(value, "recipe", value)
    if not isinstance(recipe, Recipe):
        raise ArgumentError(f"diff: arguments must be Recipes or optimizers with a recipe, got {shown(value)}.")
    return recipe


def _labelled(recipe: Recipe) -> dict[str, Stage]:
    """Return the active stages by class name, numbered if repeated; no-op stages are omitted."""
    stages: dict[str, Stage] = {}
    for stage in recipe.active():
        name, count = type(stage).__name__, 2
        while name in stages:
            name, count = f"{type(stage).__name__} {count}", count + 1
        stages[name] = stage
    return stages


def _stage_rows(name: str, a: Stage | None, b: Stage | None) -> list[tuple[str, Any, Any]]:
    if a is None or b is None or type(a) is not type(b):
        return [(name, a, b)]
    rows = []
    for field in dataclasses.fields(a):  # pyright: ignore[reportArgumentType]
        left, right = getattr(a, field.name), getattr(b, field.name)
        if plain(left) != plain(right):
            rows.append((f"{name}.{field.name}", left, right))
    return rows
