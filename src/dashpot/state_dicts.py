"""Loading optimizer state: by name where there are names, with shapes checked and dtypes kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from dashpot.errors import ArgumentError

__all__ = ["faithful_load", "step_tensor"]


def step_tensor(t: Any) -> Tensor:
    """A step count as torch keeps it: a 0-d float32 tensor on the CPU."""
    return torch.tensor(float(t), dtype=torch.float32)


@contextmanager
def faithful_load(
    optimizer: torch.optim.Optimizer, check_settings: Callable[[Mapping[str, Any]], None]
) -> Iterator[None]:
    """While open, `optimizer.load_state_dict` matches by name, refuses what does not fit, and keeps dtypes.

    torch's own loading goes by position and casts state to the parameter's dtype. Both are mended through its hooks: a
    last pre-hook puts the saved parameters in our order, a first post-hook puts back the saved dtypes.
    """
    owner = type(optimizer).__name__
    saved: dict[Tensor, dict[str, Any]] = {}

    def before(_: torch.optim.Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
        for group in state_dict["param_groups"]:
            check_settings(group)
        ordered = _in_order(owner, optimizer.param_groups, state_dict)
        params = [p for group in optimizer.param_groups for p in group["params"]]
        indices = [index for group in ordered["param_groups"] for index in group["params"]]
        for p, index in zip(params, indices, strict=False):  # torch reports a different number of parameters itself
            state = {key: value for key, value in ordered["state"].get(index, {}).items() if value is not None}
            _check_shapes(owner, p, index, state)
            saved[p] = state
        return ordered

    def after(_: torch.optim.Optimizer) -> None:
        for p, state in saved.items():
            if state:
                optimizer.state[p] = {key: _faithful(key, value, p) for key, value in state.items()}

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
    ordered = [
        {**saved, "params": [index_of[name] for name in mine["param_names"]], "param_names": list(mine["param_names"])}
        for mine, saved in zip(groups, theirs, strict=True)
    ]
    return {**state_dict, "param_groups": ordered}


def _check_shapes(owner: str, p: Tensor, index: Any, state: Mapping[str, Any]) -> None:
    for key, value in state.items():
        if isinstance(value, Tensor) and value.dim() > 0 and value.shape != p.shape:
            raise ArgumentError(
                f"{owner}: state {key!r} of parameter {index} must have the shape {tuple(p.shape)}, "
                f"got {tuple(value.shape)}."
            )


def _faithful(key: str, value: Any, p: Tensor) -> Any:
    if key == "step":
        return step_tensor(value)
    return value.detach().clone().to(p.device) if isinstance(value, Tensor) else value
