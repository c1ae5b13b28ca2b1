"""State of a data loader: the states of its generators, its samplers and its data set."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import torch

_GENERATORS = ("generator", "sampler.generator", "batch_sampler.generator", "batch_sampler.sampler.generator")
_COMPONENTS = ("", "sampler", "batch_sampler", "batch_sampler.sampler", "dataset")


def loader_state(loader: Any) -> dict[str, Any]:
    """Return the states of the generators and of the components of a `DataLoader`, by attribute path.

    The components are the loader, its samplers and its data set, if they define `state_dict` and `load_state_dict`. A
    stream has no such state, because its epochs are pure functions of their index.

    >>> from torch.utils.data import DataLoader
    >>> state = loader_state(DataLoader([1, 2], shuffle=True, generator=torch.Generator()))
    >>> list(state["own"]), state["parts"]
    (['generator'], {})
    """
    return {
        "own": {path: generator.get_state() for path, generator in _generators(loader)},
        "parts": {path: copy.deepcopy(part.state_dict()) for path, part in _components(loader) if _has_state(part)},
    }


def set_loader_state(loader: Any, state: Mapping[str, Any]) -> None:
    """Restore the state returned by `loader_state`."""
    for path, generator in _generators(loader):
        if path in state["own"]:
            generator.set_state(state["own"][path])
    for path, component in _components(loader):
        if path in state.get("parts", {}) and _has_state(component):
            component.load_state_dict(copy.deepcopy(state["parts"][path]))


def set_epoch(loader: Any, epoch: int) -> None:
    """Call `set_epoch(epoch)` on each component that defines it, such as a `DistributedSampler`."""
    for _, component in _components(loader):
        if callable(method := getattr(component, "set_epoch", None)):
            method(epoch)


def non_resumable_reason(loader: Any) -> str | None:
    """Return the reason why a saved state cannot reproduce the batches of `loader`, or None if it can."""
    if getattr(loader, "persistent_workers", False):
        return "with persistent_workers=True, the RNG states of the workers cannot be read"
    return None


def _generators(loader: Any) -> Iterator[tuple[str, torch.Generator]]:
    return ((path, found) for path, found in _attributes(loader, _GENERATORS) if isinstance(found, torch.Generator))


def _components(loader: Any) -> Iterator[tuple[str, Any]]:
    return iter(()) if callable(getattr(loader, "epoch", None)) else _attributes(loader, _COMPONENTS)


def _has_state(component: Any) -> bool:
    return callable(getattr(component, "state_dict", None)) and callable(getattr(component, "load_state_dict", None))


def _attributes(loader: Any, paths: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    """Yield (path, value) for each attribute path that exists; objects with several paths are yielded once."""
    seen: set[int] = set()
    for path in paths:
        found = loader
        for name in filter(None, path.split(".")):
            found = getattr(found, name, None)
        if found is not None and id(found) not in seen:
            seen.add(id(found))
            yield path, found
