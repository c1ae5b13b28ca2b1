"""State keys that a method can have, under its current settings and under other settings."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from typing import Any, NamedTuple

from dashpot.constraints import ARGUMENTS, Interval, OneOf
from dashpot.engine.program import COMPENSATION
from dashpot.errors import ArgumentError
from dashpot.recipes.recipe import Recipe
from dashpot.stages.base import Slot, Stage


class Slots(NamedTuple):
    """The slots that the state of one parameter can contain.

    Attributes:
        known: Slots of the method under any settings, by key.
        lasting: Keys that exist under all settings. All other keys depend on a setting, such as a nonzero momentum, and
            may be missing.
        needed: Keys that the current settings require.
    """

    known: Mapping[str, Slot]
    lasting: frozenset[str]
    needed: frozenset[str] = frozenset()

    def with_needed(self, needed: Iterable[Slot]) -> Slots:
        """Return a copy in which the keys of the slots `needed` are required."""
        present = {slot.key: slot for slot in needed}
        return Slots({**self.known, **present}, self.lasting & present.keys(), frozenset(present))


def slots_of(build: Callable[[dict[str, Any]], Recipe], settings: Mapping[str, Any]) -> Slots:
    """Return the slots of the recipes for `settings` and for all variants that differ from `settings` in one choice."""
    recipes = [list(recipe.slots) for recipe in _variations(build, settings)]
    known = {slot.key: slot for slots in recipes for slot in slots}
    return Slots(known, frozenset(key for key in known if all(key in {s.key for s in slots} for slots in recipes)))


def _variations(build: Callable[[dict[str, Any]], Recipe], settings: Mapping[str, Any]) -> Iterator[Recipe]:
    yield build(dict(settings))
    for name in settings:
        for value in _choices(name):
            try:
                yield build({**settings, name: value})
            except ArgumentError:  # this value cannot be combined with the other settings
                continue


def _choices(name: str) -> tuple[Any, ...]:
    """Return the values of a setting that may affect the slots: all choices, or zero and a nonzero number."""
    allowed = ARGUMENTS.get(name)
    if isinstance(allowed, OneOf):
        return allowed.values
    return (0.0, 0.5) if isinstance(allowed, Interval) and not allowed.integer and allowed.allows(0.0) else ()


def is_known_key(key: str) -> bool:
    """Return True if `key` is a state key of any named method or registered stage."""
    return key != COMPENSATION and (key in _keys_of_methods() or any(key in _keys(s) for s in Stage.registry.values()))


@cache
def _keys_of_methods() -> frozenset[str]:
    from dashpot.optimizers.registry import METHODS  # avoids an import cycle

    return frozenset(key for row in METHODS.values() for key in slots_of(_builder(row.cls), _defaults(row.cls)).known)


def _builder(cls: Any) -> Callable[[dict[str, Any]], Recipe]:
    return lambda settings: cls.preset(**settings)


def _defaults(cls: Any) -> dict[str, Any]:
    return {name: parameter.default for name, parameter in inspect.signature(cls.preset).parameters.items()}


def _keys(stage: type[Stage]) -> frozenset[str]:
    """Return the keys of a stage's slots if they do not depend on the settings of the stage."""
    slots = stage.slots
    return frozenset(slot.key for slot in slots) if isinstance(slots, tuple) else frozenset()
