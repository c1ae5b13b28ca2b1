"""The random generators that a data loader was given, beside the global ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

__all__ = ["generator_states", "set_generator_states", "what_cannot_resume"]

_PLACES = ("generator", "sampler.generator", "batch_sampler.generator", "batch_sampler.sampler.generator")


def generator_states(loader: Any) -> dict[str, Tensor]:
    """The state of each generator of a `DataLoader`'s own, by its place; none for a loader that has none.

    >>> from torch.utils.data import DataLoader
    >>> list(generator_states(DataLoader([1, 2], shuffle=True, generator=torch.Generator())))
    ['generator']
    """
    return {place: generator.get_state() for place, generator in _generators(loader)}


def set_generator_states(loader: Any, states: Mapping[str, Tensor]) -> None:
    """Put back what `generator_states` told."""
    for place, generator in _generators(loader):
        if place in states:
            generator.set_state(states[place])


def what_cannot_resume(loader: Any) -> str | None:
    """Why no state could make a loader repeat its batches, or None."""
    if getattr(loader, "persistent_workers", False):
        return "persistent_workers=True keeps random states in processes that nobody can ask for them"
    return None


def _generators(loader: Any) -> Iterator[tuple[str, torch.Generator]]:
    seen: set[int] = set()
    for place in _PLACES:
        found = loader
        for name in place.split("."):
            found = getattr(found, name, None)
        if isinstance(found, torch.Generator) and id(found) not in seen:
            seen.add(id(found))
            yield place, found
