"""Validation and normalization of saved parameter groups."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from torch import Tensor

from dashpot.constraints import ARGUMENTS, check
from dashpot.errors import ArgumentError
from dashpot.optimizers.group_keys import CARRIED
from dashpot.optimizers.state_dict.counts import checked_count, short
from dashpot.optimizers.state_dict.plain import plain_data

_ABSENT = {
    "amsgrad": False,
    "centered": False,
    "decoupled_weight_decay": False,
    "maximize": False,
    "nesterov": False,
}
"""The default values in torch's classes for flags that are missing in old checkpoints."""

_NEUTRAL = {"decay_scale": "lr"}
"""Values at which a setting has no effect. A saved setting that the class lacks may only have this value."""

_SEEDS = ("seed", "probe_seed")


def check_form(owner: str, state_dict: Any) -> None:
    """Raise `ArgumentError` if `state_dict` is malformed."""
    if not isinstance(state_dict, Mapping) or not {"state", "param_groups"} <= state_dict.keys():
        got = list(state_dict) if isinstance(state_dict, Mapping) else state_dict
        raise ArgumentError(f"{owner}: a state dict must have the keys 'state' and 'param_groups', got {short(got)}.")
    state, groups = state_dict["state"], state_dict["param_groups"]
    if not isinstance(state, Mapping):
        raise ArgumentError(f"{owner}: 'state' of a state dict must be a dict, got {short(state)}.")
    if not isinstance(groups, (list, tuple)):
        raise ArgumentError(f"{owner}: 'param_groups' of a state dict must be a list, got {short(groups)}.")
    for number, group in enumerate(groups):
        _check_group(owner, number, group)
    numbers = [index for group in groups for index in group["params"]]
    if len(set(numbers)) < len(numbers):
        raise ArgumentError(f"{owner}: 'params' of the saved groups must be unique, got a repeated parameter.")
    for index in state.keys() - set(numbers):
        if type(index) is int or isinstance(index, Tensor):
            raise ArgumentError(f"{owner}: saved state must belong to a saved group, got state for {short(index)}.")


def _check_group(owner: str, number: int, group: Any) -> None:
    if not isinstance(group, Mapping) or not isinstance(group.get("params"), (list, tuple)):
        raise ArgumentError(f"{owner}: saved group {number} must be a dict with a list 'params', got {short(group)}.")
    if not all(isinstance(index, Hashable) for index in group["params"]):
        raise ArgumentError(f"{owner}: 'params' of saved group {number} must be parameter numbers.")
    names = group.get("param_names")
    if names is not None and not _are_names(names, len(group["params"])):
        raise ArgumentError(f"{owner}: 'param_names' of saved group {number} must be a name for each parameter.")


def _are_names(names: Any, count: int) -> bool:
    return isinstance(names, (list, tuple)) and len(names) == count and all(isinstance(name, str) for name in names)


def normalize_group(
    owner: str, group: Mapping[str, Any], own: Mapping[str, Any], counters: Sequence[str]
) -> dict[str, Any]:
    """Return a saved group as plain data, after checking counts and rates. Missing flags are copied from `own`."""
    saved = {**plain_data(dict(group))}
    saved |= {name: value for name, value in _ABSENT.items() if name in own and name not in saved}
    if saved.get("param_names", ()) is None:
        del saved["param_names"]
    for name in (name for name in counters if name in saved):
        saved[name] = checked_count(owner, name, saved[name], low=-1 if name == "product_at" else 0)
    for name in (name for name in _SEEDS if name in saved):
        saved[name] = checked_count(owner, name, saved[name], bits=63)
    for name in (name for name in ("initial_lr", "max_lr") if name in saved):
        check(owner, name, saved[name], ARGUMENTS["lr"])
    return saved


def check_known_settings(owner: str, saved: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    """Raise `ArgumentError` if a saved setting that has an effect is missing in the group `own`."""
    for name in saved.keys() & ARGUMENTS.keys() - own.keys() - CARRIED:
        if name not in _NEUTRAL or saved[name] != _NEUTRAL[name]:
            raise ArgumentError(
                f"{owner}: a saved group must not have {name}={short(saved[name])}, a setting of a different method."
            )
