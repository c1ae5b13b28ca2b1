"""State of a data loader: its generators, and the samplers and data sets that count epochs or have a `state_dict`."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

__all__ = [
    "component_states",
    "generator_states",
    "non_resumable_reason",
    "set_component_states",
    "set_epoch",
    "set_generator_states",
]

_GENERATORS = ("generator", "sampler.generator", "batch_sampler.generator", "batch_sampler.sampler.generator")
_COMPONENTS = ("", "sampler", "batch_sampler", "batch_sampler.sampler", "dataset")


def generator_states(loader: Any) -> dict[str, Tensor]:
    """Return the state of each generator passed to a `DataLoader` or its samplers, by attribute path.

    >>> from torch.utils.data import DataLoader
    >>> list(generator_states(DataLoader([1, 2], shuffle=True, generator=torch.Generator())))
    ['generator']
    """
    return {path: generator.get_state() for path, generator in _generators(loader)}


def set_generator_states(loader: Any, states: Mapping[str, Tensor]) -> None:
    """Restore the result of `generator_states`."""
    for path, generator in _generators(loader):
        if path in states:
            generator.set_state(states[path])


def component_states(loader: Any) -> dict[str, Any]:
    """Return the `state_dict` of each component that can load one, by attribute path."""
    stateful = {path: component for path, component in _components(loader) if _has_state(component)}
    return {path: copy.deepcopy(component.state_dict()) for path, component in stateful.items()}


def set_component_states(loader: Any, states: Mapping[str, Any]) -> None:
    """Restore the result of `component_states`."""
    for path, component in _components(loader):
        if path in states and _has_state(component):
            component.load_state_dict(copy.deepcopy(states[path]))


def set_epoch(loader: Any, epoch: int) -> None:
    """Call `set_epoch(epoch)` on each component that defines it, such as a `DistributedSampler`."""
    for _, component in _components(loader):
        if callable(method := getattr(component, "set_epoch", None)):
            method(epoch)


def non_resumable_reason(loader: Any) -> str | None:
    """Return why no saved state could reproduce the batches of `loader`, or None."""
    if getattr(loader, "persistent_workers", False):
        return "with persistent_workers=True, the RNG states of the workers cannot be read"
    return None


def _generators(loader: Any) -> Iterator[tuple[str, torch.Generator]]:
    return ((path, found) for path, found in _attributes(loader, _GENERATORS) if isinstance(found, torch.Generator))


def _components(loader: Any) -> Iterator[tuple[str, Any]]:
    return ((path, found) for path, found in _attributes(loader, _COMPONENTS) if found is not None)


def _has_state(component: Any) -> bool:
    return callable(getattr(component, "state_dict", None)) and callable(getattr(component, "load_state_dict", None))


def _attributes(loader: Any, paths: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    """Yield (path, value) for each attribute path, each object once."""
    seen: set[int] = set()
    for path in paths:
        found = loader
        for name in filter(None, path.split(".")):
            found = getattr(found, name, None)
        if id(found) not in seen:
            seen.add(id(found))
            yield path, found
