"""Hyperparameters of parameter groups that a resumed fit takes from the checkpoint or from its own optimizer."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch.optim import Optimizer

SCHEDULER_KEYS = ("initial_", "max_", "min_", "base_")
"""Prefixes of the keys that schedulers add to parameter groups."""

Location = tuple[str, "int | None"]
"""Key of a hyperparameter in a group, and its index if it is an entry of a pair."""


@dataclass(frozen=True)
class Kept:
    """Hyperparameters that keep the values of the current optimizer.

    Args:
        names: Keys of all groups.
        of_groups: Additional keys of each group.
        scheduled: Hyperparameters that a schedule of the checkpoint has changed.
    """

    names: Collection[str] = ()
    of_groups: Sequence[Collection[str]] = ()
    scheduled: Collection[Location] = ()

    def merged(self, saved: Mapping[str, Any], own: Mapping[str, Any], index: int) -> dict[str, Any]:
        """Return the settings of the group `index`, from the saved and the current group."""
        names = {*self.names, *(self.of_groups[index] if self.of_groups else ())}
        merged = {**saved, **{name: own[name] for name in names if name in own}}
        for key, entry in self.scheduled:
            if key in own:
                merged[key] = own[key] if entry is None else _with_entry(merged.get(key, own[key]), own[key], entry)
        for name in [name for name in {*saved, *own} if is_scheduler_key(name, self.scheduled)]:
            merged.pop(name, None)
            merged |= {name: own[name]} if name in own else {}
        return merged


def is_scheduler_key(name: str, scheduled: Iterable[Location]) -> bool:
    """Return whether a scheduler of the given hyperparameters stores the key `name` in parameter groups.

    >>> [is_scheduler_key(name, [("lr", None)]) for name in ("initial_lr", "max_lr", "initial_betas[0]", "lr")]
    [True, True, False, False]
    """
    prefix = next((prefix for prefix in SCHEDULER_KEYS if name.startswith(prefix)), None)
    if prefix is None:
        return False
    rest = name.removeprefix(prefix)
    aliases = {"momentum": {("momentum", None), ("betas", 0)}}  # torch's OneCycleLR and CyclicLR
    return any(rest == _text(location) or location in aliases.get(rest, ()) for location in scheduled)


def scheduled_by(callbacks: Mapping[str, Any]) -> set[Location]:
    """Return the hyperparameters that the schedules in the saved states of callbacks have changed."""
    found: set[Location] = set()
    for state in callbacks.values():
        if isinstance(state, Mapping) and {"scheduler", "groups"} <= state.keys():
            found |= {(key, entry) for key, entry in state.get("scheduled") or _derived(state["scheduler"])}
    return found


def initial_groups(optimizer: Optimizer) -> list[dict[str, str]]:
    """Return the settings of each group that differ from the optimizer's defaults, as strings."""
    usual = {name: repr(value) for name, value in optimizer.defaults.items()}
    return [
        {name: repr(group[name]) for name in usual if name in group and repr(group[name]) != usual[name]}
        for group in optimizer.param_groups
    ]


def changed_in_groups(saved: Mapping[str, Any], current: Mapping[str, Any]) -> dict[str, set[str]]:
    """Return, for each group by name, the settings that differ between the checkpoint and the current optimizer.

    >>> changed_in_groups({"0.bias": {"lr": "0.1"}}, {"0.bias": {"lr": "0.2"}, "1.bias": {}})
    {'0.bias': {'lr'}, '1.bias': set()}
    """
    return {
        name: {key for key in {*own, *saved.get(name, {})} if own.get(key) != saved.get(name, {}).get(key)}
        for name, own in current.items()
    }


def _derived(scheduler: Mapping[str, Any]) -> set[Location]:
    """Return the hyperparameters of a scheduler whose checkpoint does not list them, from the scheduler's state."""
    names = scheduler.get("schedules")
    if isinstance(names, Mapping):
        return {_location(name) for name in names} | ({("betas", 0)} if {"momentum", "pole"} & names.keys() else set())
    momentum = {("momentum", None), ("betas", 0)} if scheduler.get("cycle_momentum") else set()
    return {("lr", None), *momentum}


def _location(name: str) -> Location:
    key, bracket, entry = name.partition("[")
    return (key, int(entry[0])) if bracket else (key, None)


def _text(location: Location) -> str:
    key, entry = location
    return key if entry is None else f"{key}[{entry}]"


def _with_entry(pair: Any, own: Any, entry: int) -> tuple[Any, ...]:
    merged = list(pair)
    merged[entry] = own[entry]
    return tuple(merged)
