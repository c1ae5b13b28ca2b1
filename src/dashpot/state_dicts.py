"""Loading optimizer state: by name where there are names, with shapes checked and dtypes kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from dashpot.errors import ArgumentError
from dashpot.stages.base import Slot

__all__ = ["faithful_load", "step_tensor"]


def step_tensor(t: Any, device: torch.device | None = None) -> Tensor:
    """A step count as torch keeps it: a 0-d float32 tensor, on the CPU or, where it is capturable, on `device`."""
    count = t.detach().clone() if isinstance(t, Tensor) else torch.tensor(float(t), device="cpu")
    return count.to(device or "cpu", torch.float32).reshape(())


@contextmanager
def faithful_load(
    optimizer: torch.optim.Optimizer, expected_slots: Callable[[Mapping[str, Any]], tuple[Slot, ...]]
) -> Iterator[None]:
    """While open, `optimizer.load_state_dict` matches by name, refuses what does not fit, and keeps dtypes.

    torch's own loading goes by position and casts state to the parameter's dtype. Both are mended through its hooks: a
    last pre-hook puts the saved parameters in our order, a first post-hook puts back the saved dtypes. `capturable`
    stays the optimizer's own choice, and step counts go where it has them.
    `expected_slots` checks the settings of a saved group and tells which state they need.
    """
    owner = type(optimizer).__name__
    saved: dict[Tensor, dict[str, Any]] = {}
    capturable = [group.get("capturable") for group in optimizer.param_groups]

    def before(_: torch.optim.Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
        if not {"state", "param_groups"} <= state_dict.keys():
            raise ArgumentError(
                f"{owner}: a state dict has the keys 'state' and 'param_groups', got {list(state_dict)}."
            )
        ordered = _in_order(owner, optimizer.param_groups, state_dict)
        # A different number of groups or parameters is reported by torch itself.
        for group, theirs in zip(optimizer.param_groups, ordered["param_groups"], strict=False):
            slots = expected_slots(theirs)
            for p, index in zip(group["params"], theirs["params"], strict=False):
                state = {key: value for key, value in ordered["state"].get(index, {}).items() if value is not None}
                _check_state(owner, p, index, state, slots)
                saved[p] = state
        return ordered

    def after(_: torch.optim.Optimizer) -> None:
        for group, its in zip(optimizer.param_groups, capturable, strict=True):
            group.pop("capturable", None)
            if its is not None:
                group["capturable"] = its
            for p in group["params"]:
                if saved.get(p):
                    items = saved[p].items()
                    optimizer.state[p] = {key: _faithful(key, value, p, bool(its)) for key, value in items}

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
    if not all("param_names" in group for group in [*groups, *theirs]):
        return state_dict
    pairs = [pair for group in theirs for pair in zip(group["param_names"], group["params"], strict=True)]
    index_of = dict(pairs)
    wanted = [name for group in groups for name in group["param_names"]]
    if len(index_of) < len(pairs) or len(set(wanted)) < len(wanted):
        return state_dict  # two parameters of one name, such as the weights of two models: names tell nothing
    missing, extra = sorted(set(wanted) - set(index_of)), sorted(set(index_of) - set(wanted))
    if missing or extra:
        raise ArgumentError(
            f"{owner}: the saved state is of other parameters: missing {missing or 'none'}, unknown {extra or 'none'}."
        )
    if len(groups) != len(theirs):
        return state_dict  # torch refuses this with its own message
    ordered = []
    for position, mine in enumerate(groups):
        names = list(mine["param_names"])
        settings = _settings_of(owner, names, theirs) if names else theirs[position]
        ordered.append({**settings, "params": [index_of[name] for name in names], "param_names": names})
    return {**state_dict, "param_groups": ordered}


def _settings_of(owner: str, names: list[str], theirs: list[dict[str, Any]]) -> dict[str, Any]:
    """The saved group that the named parameters were in; if they were in several, these must have agreed."""
    homes = [group for group in theirs if set(names) & set(group["param_names"])]
    for key in homes[0].keys() - {"params", "param_names"}:
        if any(group.get(key) != homes[0][key] for group in homes[1:]):
            raise ArgumentError(
                f"{owner}: the parameters of one group, {names[0]!r} and others, were saved with different {key}; "
                "make groups like the saved ones."
            )
    return homes[0]


def _check_state(owner: str, p: Tensor, index: Any, state: Mapping[str, Any], slots: tuple[Slot, ...]) -> None:
    """Refuse state of other slots or other shapes. A slot may be missing, as after a momentum was switched on."""
    shapes = {slot.key: tuple(p.shape) if slot.shape == "elementwise" else () for slot in slots}
    if shapes and state.keys() - {"step"} and not shapes.keys() & state.keys():
        raise ArgumentError(
            f"{owner}: parameter {index} was saved with {', '.join(sorted(state))} not {', '.join(shapes)}: "
            "state of another method."
        )
    for key, value in state.items():
        allowed = [shapes[key]] if key in shapes else [(), tuple(p.shape)]
        if isinstance(value, Tensor) and tuple(value.shape) not in allowed:
            raise ArgumentError(
                f"{owner}: state {key!r} of parameter {index} must have the shape {allowed[-1]}, "
                f"got {tuple(value.shape)}."
            )


def _faithful(key: str, value: Any, p: Tensor, on_device: bool) -> Any:
    if key == "step":
        return step_tensor(value, p.device if on_device else None)
    return value.detach().clone().to(p.device) if isinstance(value, Tensor) else value
