"""Names in saved states, matched with those of a model without the prefixes of wrappers such as torch.compile."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from dashpot.optimizers.state_dict.names import unwrapped


def names_of(model: nn.Module) -> list[str]:
    """Return the names of all parameters and buffers, and of other entries of the state dict."""
    tensors = (*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False))
    return list(dict.fromkeys([*model.state_dict(), *(name for name, _ in tensors)]))


def renames(saved: Iterable[str], own: Iterable[str]) -> dict[str, str]:
    """Return the new name of each saved name that differs from the name of the same tensor in a model.

    Prefixes of torch.compile, DDP, FSDP and activation checkpointing are ignored on both sides. Saved names without a
    counterpart are omitted, and so are all names if too few of them match.

    >>> renames(["_orig_mod.fc.weight", "_orig_mod.fc.bias"], ["fc.weight", "fc.bias"])
    {'_orig_mod.fc.weight': 'fc.weight', '_orig_mod.fc.bias': 'fc.bias'}
    >>> renames(["fc.weight"], ["fc._orig_mod.weight"]), renames(["fc.weight"], ["gc.weight"])
    ({'fc.weight': 'fc._orig_mod.weight'}, {})
    """
    theirs, ours = list(saved), list(own)
    own_name = dict(zip(unwrapped(ours), ours, strict=True))
    pairs = ((name, own_name.get(bare)) for name, bare in zip(theirs, unwrapped(theirs), strict=True))
    new = {name: found for name, found in pairs if found is not None and found != name}
    return new if len(set(theirs) & set(ours)) < len(own_name.keys() & set(unwrapped(theirs))) else {}


def matched(model: nn.Module, weights: Mapping[str, Any]) -> dict[str, Any]:
    """Return saved weights with the names of the model's tensors, in the saved order."""
    own = model.state_dict()
    new = {} if weights.keys() == own.keys() else renames(weights, own)
    return {new.get(name, name): value for name, value in weights.items()}


def matched_state(model: nn.Module, state: Mapping[str, Any]) -> dict[str, Any]:
    """Return the state of a fit with the names of the model's tensors, in weights, optimizer and callbacks."""
    extra, own = state.get("besides", {}), names_of(model)
    saved = list(dict.fromkeys([*state["model"], *extra.get("buffers", ()), *extra.get("gradients", ())]))
    new = renames(saved, own)
    if not new:
        return dict(state)
    return {
        **state,
        "model": _renamed(state["model"], new),
        "besides": {name: _renamed(value, new) for name, value in extra.items()},
        "optimizer": _optimizer(state["optimizer"], new),
        "callbacks": {name: _tensors_by_name(value, set(saved), new) for name, value in state["callbacks"].items()},
    }


def _renamed(value: Any, new: Mapping[str, str]) -> Any:
    """Rename the keys of a mapping, or the items of a list."""
    if isinstance(value, Mapping):
        return {new.get(name, name): item for name, item in value.items()}
    return [new.get(name, name) for name in value]


def _optimizer(state: Mapping[str, Any], new: Mapping[str, str]) -> dict[str, Any]:
    if "by_name" in state:
        return {"by_name": {name: _optimizer(item, new) for name, item in state["by_name"].items()}}
    groups = [{**group, "params": _renamed(group["params"], new)} for group in state["param_groups"]]
    named = {name: _renamed(state[name], new) for name in ("state", "forms") if name in state}
    return {**state, **named, "param_groups": groups}


def _tensors_by_name(value: Any, saved: set[str], new: Mapping[str, str]) -> Any:
    """Rename the keys of all mappings, such as averages, from saved names to tensors."""
    if not isinstance(value, Mapping):
        return value
    if all(isinstance(item, Tensor) for item in value.values()) and saved.issuperset(value):
        return _renamed(value, new)
    return {name: _tensors_by_name(item, saved, new) for name, item in value.items()}
