"""State of a data loader: the states of its generators, its samplers and its data set."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from dashpot.utils.schema import SchemaError
from dashpot.utils.stateful import is_stateful

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
        "parts": {path: copy.deepcopy(part.state_dict()) for path, part in _components(loader) if is_stateful(part)},
    }


def check_loader_state(loader: Any, state: Mapping[str, Any], path: str, override: bool = False) -> None:
    """Check that a saved state contains the states of the generators of a loader, now and at the start of the epoch.

    Args:
        loader: The loader.
        state: State returned by `loader_state`, with the states at the start of the epoch on each rank as "begun".
        path: Path of the state in messages.
        override: Whether the generators may differ from the saved ones.

    Raises:
        SchemaError: If a generator has no valid state, or the loader lacks a generator.
    """
    own = dict(_generators(loader))
    starts = {f"{path}.begun[{index}].own": row.get("own", {}) for index, row in enumerate(state["begun"]) if row}
    for place, saved in {f"{path}.own": state["own"], **starts}.items():
        if own.keys() != saved.keys() and not override:
            names = [", ".join(names) or "none" for names in (saved, own)]
            raise SchemaError(f"{place} must have the generators of the loader, {names[1]}, got {names[0]}")
        for name in own.keys() & saved.keys():
            try:
                torch.Generator(own[name].device).set_state(saved[name])
            except Exception as error:  # torch raises errors of several types
                raise SchemaError(f"{place}.{name} must be the state of a generator") from error


def set_loader_state(loader: Any, state: Mapping[str, Any]) -> None:
    """Restore the state returned by `loader_state`."""
    for path, generator in _generators(loader):
        if path in state["own"]:
            generator.set_state(state["own"][path])
    for path, component in _components(loader):
        if path in state.get("parts", {}) and is_stateful(component):
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
