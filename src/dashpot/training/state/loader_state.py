"""The parts of a data loader that count epochs, or have a state, of their own."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["part_states", "set_epoch", "set_part_states"]

_PLACES = ("", "sampler", "batch_sampler", "batch_sampler.sampler", "dataset")


def set_epoch(source: Any, epoch: int) -> None:
    """Tell the number of the epoch to every part that wants to know it, as samplers do."""
    for _, part in _parts(source):
        if callable(tell := getattr(part, "set_epoch", None)):
            tell(epoch)


def part_states(source: Any) -> dict[str, Any]:
    """The state of every part that can be given it again, by its place."""
    stateful = {place: part for place, part in _parts(source) if _has_state(part)}
    return {place: copy.deepcopy(part.state_dict()) for place, part in stateful.items()}


def set_part_states(source: Any, states: Mapping[str, Any]) -> None:
    """Put back what `part_states` told."""
    for place, part in _parts(source):
        if place in states and _has_state(part):
            part.load_state_dict(copy.deepcopy(states[place]))


def _has_state(part: Any) -> bool:
    return callable(getattr(part, "state_dict", None)) and callable(getattr(part, "load_state_dict", None))


def _parts(source: Any) -> Iterator[tuple[str, Any]]:
    seen: set[int] = set()
    for place in _PLACES:
        found = source
        for name in filter(None, place.split(".")):
            found = getattr(found, name, None)
        if found is not None and id(found) not in seen:
            seen.add(id(found))
            yield place, found
