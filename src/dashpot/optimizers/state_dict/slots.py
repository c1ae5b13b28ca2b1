"""Which state a method may have: in its present settings, in others, and that of other methods."""

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

__all__ = ["Slots", "is_of_some_method", "slots_of"]


class Slots(NamedTuple):
    """The state of one parameter by key.

    `known` are the slots of the method in any settings, `needed` those in its present settings, `lasting` those that it
    has in all settings. The others come and go with a setting, as a momentum of zero does, and may be missing.
    """

    known: Mapping[str, Slot]
    lasting: frozenset[str]
    needed: frozenset[str] = frozenset()

    def with_needed(self, needed: Iterable[Slot]) -> Slots:
        """The slots of a method whose present settings need `needed`."""
        present = {slot.key: slot for slot in needed}
        return Slots({**self.known, **present}, self.lasting & present.keys(), frozenset(present))


def slots_of(build: Callable[[dict[str, Any]], Recipe], settings: Mapping[str, Any]) -> Slots:
    """The slots of the recipes that `build` makes of `settings` and of settings that differ from them in one choice."""
    recipes = [list(recipe.slots) for recipe in _variations(build, settings)]
    known = {slot.key: slot for slots in recipes for slot in slots}
    return Slots(known, frozenset(key for key in known if all(key in {s.key for s in slots} for slots in recipes)))


def _variations(build: Callable[[dict[str, Any]], Recipe], settings: Mapping[str, Any]) -> Iterator[Recipe]:
    yield build(dict(settings))
    for name in settings:
        for value in _choices(name):
            try:
                yield build({**settings, name: value})
            except ArgumentError:  # not together with the other settings
                continue


def _choices(name: str) -> tuple[Any, ...]:
    """The values of a setting that may decide which slots there are: every choice, and zero against other numbers."""
    allowed = ARGUMENTS.get(name)
    if isinstance(allowed, OneOf):
        return allowed.values
    return (0.0, 0.5) if isinstance(allowed, Interval) and not allowed.integer and allowed.allows(0.0) else ()


def is_of_some_method(key: str) -> bool:
    """True for a key under which some method or stage, a user's own included, keeps state."""
    return key != COMPENSATION and (key in _keys_of_methods() or any(key in _keys(s) for s in Stage.registry.values()))


@cache
def _keys_of_methods() -> frozenset[str]:
    from dashpot.optimizers.registry import METHODS  # which imports the optimizers, which load state

    return frozenset(key for row in METHODS.values() for key in slots_of(_builder(row.cls), _defaults(row.cls)).known)


def _builder(cls: Any) -> Callable[[dict[str, Any]], Recipe]:
    return lambda settings: cls.preset(**settings)


def _defaults(cls: Any) -> dict[str, Any]:
    return {name: parameter.default for name, parameter in inspect.signature(cls.preset).parameters.items()}


def _keys(stage: type[Stage]) -> frozenset[str]:
    """The keys of a stage's slots, where these do not depend on its settings."""
    slots = stage.slots
    return frozenset(slot.key for slot in slots) if isinstance(slots, tuple) else frozenset()
