"""Loading of optimizer state: matched by name if possible, and validated and converted before any modification."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dashpot.engine.dtensor import check_state_sharding
from dashpot.errors import ArgumentError
from dashpot.optimizers.state_dict.entries import Target, convert_entry
from dashpot.optimizers.state_dict.groups import check_form
from dashpot.optimizers.state_dict.names import match_names
from dashpot.optimizers.state_dict.plain import plain_data
from dashpot.optimizers.state_dict.slots import Slots


class AcceptedGroup(NamedTuple):
    """A validated saved group: its settings, and a function that returns the slots of a parameter."""

    settings: dict[str, Any]
    slots: Callable[[Tensor], Slots]


@contextmanager
def checked_load(
    optimizer: torch.optim.Optimizer, accept: Callable[[Mapping[str, Any], Mapping[str, Any]], AcceptedGroup]
) -> Iterator[None]:
    """Within this context, make `optimizer.load_state_dict` match state by name, validate it, and keep dtypes.

    torch matches by position, casts state to the dtype of the parameter and validates nothing. Two hooks change this.
    The last pre-hook validates and converts everything, and removes the state of the parameters from the dictionary
    that torch loads. The first post-hook adds this state to the optimizer. The optimizer keeps its own value of
    `capturable`, which determines the device of step counts.

    Args:
        optimizer: The optimizer.
        accept: Function that validates a saved group. Its arguments are the saved group and the group of the optimizer
            to replace.
    """
    owner = type(optimizer).__name__
    loaded: dict[Tensor, dict[str, Any]] = {}
    capturable = [group.get("capturable") for group in optimizer.param_groups]

    def before(_: torch.optim.Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
        check_form(owner, state_dict)
        ordered = _reorder(owner, optimizer.param_groups, state_dict)
        state, groups = dict(ordered["state"]), list(ordered["param_groups"])
        # torch raises an error if the number of groups or parameters differs.
        for number, (group, theirs) in enumerate(zip(optimizer.param_groups, groups, strict=False)):
            groups[number], slots = accept(theirs, group)
            names = group.get("param_names") or theirs.get("param_names") or [None] * len(theirs["params"])
            for p, index, name in zip(group["params"], theirs["params"], names, strict=False):
                if index in state:
                    title = f"parameter {index}" if name is None else f"parameter {name!r}"
                    target = Target(owner, title, p, bool(group.get("capturable")))
                    loaded[p] = convert_entry(target, state.pop(index), slots(p))
                    check_state_sharding(owner, p, loaded[p])
        return {**ordered, "state": state, "param_groups": groups}

    def after(_: torch.optim.Optimizer) -> None:
        for group, value in zip(optimizer.param_groups, capturable, strict=True):
            if value is None:
                group.pop("capturable", None)
            else:
                group["capturable"] = value
        optimizer.state.update(loaded)

    handles = (
        optimizer.register_load_state_dict_pre_hook(before),
        optimizer.register_load_state_dict_post_hook(after, prepend=True),
    )
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _reorder(owner: str, groups: list[dict[str, Any]], state_dict: dict[str, Any]) -> dict[str, Any]:
    """Return the state dict in the order of `groups`, matched by name if the names on both sides are unique."""
    theirs = state_dict["param_groups"]
    if not all(group.get("param_names") is not None for group in [*groups, *theirs]):
        return state_dict
    index_of = {
        name: index for group in theirs for name, index in zip(group["param_names"], group["params"], strict=True)
    }
    wanted = [name for group in groups for name in group["param_names"]]
    if len(index_of) < sum(len(group["params"]) for group in theirs) or len(set(wanted)) < len(wanted):
        return state_dict  # ambiguous names, such as those of two models
    saved_as = match_names(owner, wanted, list(index_of))
    if len(groups) != len(theirs):
        return state_dict  # torch raises the error for a different number of groups
    ordered = []
    for position, group in enumerate(groups):
        names = list(group["param_names"])
        saved = [saved_as[name] for name in names]
        settings = _settings_of(owner, saved, theirs) if names else theirs[position]
        ordered.append({**settings, "params": [index_of[name] for name in saved], "param_names": names})
    return {**state_dict, "param_groups": ordered}


def _settings_of(owner: str, names: list[str], theirs: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the saved group of the named parameters. If there are several groups, their settings must be equal."""
    sources = [group for group in theirs if set(names) & set(group["param_names"])]
    for key in sources[0].keys() - {"params", "param_names"}:
        if any(_differ(group.get(key), sources[0][key]) for group in sources[1:]):
            raise ArgumentError(
                f"{owner}: {names[0]!r} and other parameters of one group were saved with different {key}; "
                "use the saved groups."
            )
    return sources[0]


def _differ(a: Any, b: Any) -> bool:
    a, b = (plain_data(x.tolist() if isinstance(x, Tensor) else x) for x in (a, b))
    return bool(a != b)
