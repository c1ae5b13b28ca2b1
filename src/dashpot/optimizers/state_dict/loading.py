"""Loading optimizer state: by name where there are names, checked and converted before anything changes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dashpot.engine.dtensor import check_state_division
from dashpot.errors import ArgumentError
from dashpot.optimizers.state_dict.entries import Place, converted
from dashpot.optimizers.state_dict.groups import check_form
from dashpot.optimizers.state_dict.names import saved_names
from dashpot.optimizers.state_dict.plain import plain_data
from dashpot.optimizers.state_dict.slots import Slots

__all__ = ["Accepted", "faithful_load"]


class Accepted(NamedTuple):
    """A saved group as an optimizer takes it over: its settings, and the slots that a parameter then has."""

    settings: dict[str, Any]
    slots: Callable[[Tensor], Slots]


@contextmanager
def faithful_load(
    optimizer: torch.optim.Optimizer, accept: Callable[[Mapping[str, Any], Mapping[str, Any]], Accepted]
) -> Iterator[None]:
    """While open, `optimizer.load_state_dict` matches by name, refuses what does not fit, and keeps dtypes.

    torch's own loading goes by position, casts state to the parameter's dtype and checks nothing. Its hooks mend that:
    a last pre-hook checks and converts everything and takes the parameters' state out of what torch loads, a first
    post-hook puts it in. `capturable` stays the optimizer's own choice, and step counts go where it has them.
    `accept` is called with each saved group and the group that it is for.
    """
    owner = type(optimizer).__name__
    ready: dict[Tensor, dict[str, Any]] = {}
    capturable = [group.get("capturable") for group in optimizer.param_groups]

    def before(_: torch.optim.Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
        check_form(owner, state_dict)
        ordered = _in_order(owner, optimizer.param_groups, state_dict)
        state, groups = dict(ordered["state"]), list(ordered["param_groups"])
        # A different number of groups or parameters is reported by torch itself.
        for number, (group, theirs) in enumerate(zip(optimizer.param_groups, groups, strict=False)):
            groups[number], slots = accept(theirs, group)
            names = group.get("param_names") or theirs.get("param_names") or [None] * len(theirs["params"])
            for p, index, name in zip(group["params"], theirs["params"], names, strict=False):
                if index in state:
                    called = f"parameter {index}" if name is None else f"parameter {name!r}"
                    place = Place(owner, called, p, bool(group.get("capturable")))
                    ready[p] = converted(place, state.pop(index), slots(p))
                    check_state_division(owner, p, ready[p])
        return {**ordered, "state": state, "param_groups": groups}

    def after(_: torch.optim.Optimizer) -> None:
        for group, its in zip(optimizer.param_groups, capturable, strict=True):
            if its is None:
                group.pop("capturable", None)
            else:
                group["capturable"] = its
        optimizer.state.update(ready)

    handles = (
        optimizer.register_load_state_dict_pre_hook(before),
        optimizer.register_load_state_dict_post_hook(after, prepend=True),
    )
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _in_order(owner: str, groups: list[dict[str, Any]], state_dict: dict[str, Any]) -> dict[str, Any]:
    """The state dict with its saved parameters in the order of `groups`: by name, if both sides have unique names."""
    theirs = state_dict["param_groups"]
    if not all(group.get("param_names") is not None for group in [*groups, *theirs]):
        return state_dict
    index_of = {
        name: index for group in theirs for name, index in zip(group["param_names"], group["params"], strict=True)
    }
    wanted = [name for group in groups for name in group["param_names"]]
    if len(index_of) < sum(len(group["params"]) for group in theirs) or len(set(wanted)) < len(wanted):
        return state_dict  # two parameters of one name, such as the weights of two models: names tell nothing
    saved_as = saved_names(owner, wanted, list(index_of))
    if len(groups) != len(theirs):
        return state_dict  # torch refuses this with its own message
    ordered = []
    for position, mine in enumerate(groups):
        names = list(mine["param_names"])
        saved = [saved_as[name] for name in names]
        settings = _settings_of(owner, saved, theirs) if names else theirs[position]
        ordered.append({**settings, "params": [index_of[name] for name in saved], "param_names": names})
    return {**state_dict, "param_groups": ordered}


def _settings_of(owner: str, names: list[str], theirs: list[dict[str, Any]]) -> dict[str, Any]:
    """The saved group that the named parameters were in; if they were in several, these must have agreed."""
    homes = [group for group in theirs if set(names) & set(group["param_names"])]
    for key in homes[0].keys() - {"params", "param_names"}:
        if any(_differ(group.get(key), homes[0][key]) for group in homes[1:]):
            raise ArgumentError(
                f"{owner}: the parameters of one group, {names[0]!r} and others, were saved with different {key}; "
                "make groups like the saved ones."
            )
    return homes[0]


def _differ(a: Any, b: Any) -> bool:
    a, b = (plain_data(x.tolist() if isinstance(x, Tensor) else x) for x in (a, b))
    return bool(a != b)
