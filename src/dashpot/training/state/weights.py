"""Weights and optimizer state as whole tensors under the names of the model's parameters, whoever holds which part."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from dashpot.errors import RunError

__all__ = [
    "besides",
    "check_model",
    "copied",
    "like",
    "load_besides",
    "load_model",
    "load_optimizer",
    "model_state",
    "optimizer_state",
]

SHOWN = 6


# ---- the model ------------------------------------------------------------------------------------------------------


def model_state(model: nn.Module) -> dict[str, Any]:
    """`model.state_dict()` as copies on the CPU; with sharded parameters every process has to ask."""
    state = model.state_dict(keep_vars=True)
    once = {id(value): copied(value) for value in state.values()}  # tied parameters are one tensor
    return {name: once[id(value)] for name, value in state.items()}


def check_model(model: nn.Module, state: Mapping[str, Any]) -> None:
    """Refuse weights that are not this model's.

    Raises:
        RunError: names, shapes or dtypes differ; each is listed.
    """
    own = model.state_dict()
    found = [f"{name} is only in the checkpoint" for name in state if name not in own]
    found += [f"{name} is only in the model" for name in own if name not in state]
    found += [text for name in state if name in own if (text := _unlike(name, state[name], own[name]))]
    if found:
        more = f"; and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
        raise RunError(f"The checkpoint is of another model: {'; '.join(found[:SHOWN])}{more}.")


def load_model(model: nn.Module, state: Mapping[str, Any]) -> None:
    """Put weights and buffers back.

    Raises:
        RunError: names, shapes or dtypes differ; each is listed, and nothing is changed.
    """
    check_model(model, state)
    own = model.state_dict()  # carries the versions of the modules, which loading asks for
    for name, value in own.items():
        own[name] = like(state[name], value) if isinstance(value, Tensor) else state[name]
    model.load_state_dict(own)


def besides(model: nn.Module) -> dict[str, Any]:
    """What a model carries that its `state_dict` leaves out, as copies on the CPU.

    Buffers that are not persistent, gradients that are kept from one step to the next, and which parameters are frozen.
    """
    persistent, params = model.state_dict(), list(model.named_parameters())
    return {
        "buffers": {name: _copy(b) for name, b in model.named_buffers() if name not in persistent},
        "gradients": {name: _copy(p.grad) for name, p in params if p.grad is not None},
        "frozen": [name for name, p in params if not p.requires_grad],
    }


def load_besides(model: nn.Module, state: Mapping[str, Any]) -> None:
    """Put back what `besides` told, after `load_model`."""
    buffers, frozen = dict(model.named_buffers()), set(state["frozen"])
    for name, value in state["buffers"].items():
        if name in buffers and buffers[name].shape == value.shape:
            buffers[name].copy_(like(value, buffers[name]))
        elif name in buffers:  # one that grows as it is needed
            path, _, last = name.rpartition(".")
            setattr(model.get_submodule(path), last, value.to(buffers[name].device))
    for name, p in model.named_parameters():
        p.requires_grad_(name not in frozen)
        grad = state["gradients"].get(name)
        p.grad = None if grad is None else like(grad.clone(), p).to(p.device)


def _unlike(name: str, there: Any, here: Any) -> str | None:
    """How two values of one name differ in kind."""
    if not isinstance(there, Tensor) or not isinstance(here, Tensor) or is_lazy(here) or is_lazy(there):
        return None
    if there.shape != here.shape:
        return f"{name} has shape {tuple(there.shape)} there and {tuple(here.shape)} here"
    return None if there.dtype == here.dtype else f"{name} is {there.dtype} there and {here.dtype} here"


# ---- the optimizer --------------------------------------------------------------------------------------------------


def optimizer_state(model: nn.Module, optimizer: Optimizer) -> dict[str, Any]:
    """The optimizer's `state_dict` as copies on the CPU, with names of parameters in the place of their numbers."""
    plain, names = optimizer.state_dict(), _names(model, optimizer)
    own_names = {"params", "param_names"}
    return copied(
        {
            **plain,
            "state": {names[key] if key in range(len(names)) else key: item for key, item in plain["state"].items()},
            "param_groups": [
                {**_without(group, own_names), "params": [names[i] for i in group["params"]]}
                for group in plain["param_groups"]
            ],
        }
    )


def load_optimizer(
    model: nn.Module, optimizer: Optimizer, state: Mapping[str, Any], *, keep: Iterable[str] = ()
) -> Callable[[], None]:
    """Put an optimizer's state back, matched by the names of the parameters; the order of groups plays no part.

    State comes back in the dtypes that it was saved in, also where `Optimizer.load_state_dict` would cast it.

    Args:
        model, optimizer: the names are the model's.
        state: as returned by `optimizer_state`; it is not changed, and the optimizer keeps nothing of it.
        keep: settings of the groups that stay as they are here.

    Returns:
        A function that undoes it.

    Raises:
        RunError: it is of other parameters or groups, or the optimizer refuses it; nothing is changed then.
    """
    names = _names(model, optimizer)
    index_of = {name: index for index, name in enumerate(names)}
    params = [p for group in optimizer.param_groups for p in group["params"]]
    whole = {index_of.get(key, key): item for key, item in state["state"].items()}
    spread = {
        key: _map(item, lambda value, p=params[key]: _like_state(value, p)) if isinstance(key, int) else copied(item)
        for key, item in whole.items()
    }
    saved = _matched(state["param_groups"], _own_groups(names, optimizer))
    groups = [
        _settings(group, own, [index_of[name] for name in mine], keep)
        for group, own, mine in zip(saved, optimizer.param_groups, _own_groups(names, optimizer), strict=True)
    ]
    before = optimizer.state, [dict(group) for group in optimizer.param_groups]

    def undo() -> None:
        # Through its own door, so that what the optimizer has looked up about its state is dropped.
        optimizer.__setstate__({"state": before[0], "param_groups": before[1]})

    try:
        optimizer.load_state_dict({**state, "state": spread, "param_groups": groups})
    except Exception as error:
        undo()
        raise RunError(f"The checkpoint's optimizer state does not fit: {error}") from error
    for index, p in enumerate(params):
        if index in spread:
            optimizer.state[p] = _as_saved(optimizer.state[p], spread[index])
    return undo


def _settings(
    saved: Mapping[str, Any], own: Mapping[str, Any], params: list[int], keep: Iterable[str]
) -> dict[str, Any]:
    """A saved group in the optimizer's own order of parameters."""
    group = {key: _beside(value, own.get(key)) for key, value in saved.items()}
    group |= {key: own[key] for key in keep if key in own}
    return {**group, "params": params}  # without names of parameters torch keeps those that are here


def _beside(value: Any, own: Any) -> Any:
    """A setting that is a tensor goes where the optimizer has its own."""
    return value.clone().to(own.device) if isinstance(value, Tensor) and isinstance(own, Tensor) else value


def _names(model: nn.Module, optimizer: Optimizer) -> list[str]:
    """The name of every parameter of the optimizer, in its order; one that is not the model's goes by its number.

    A tied parameter has several names: the first of them in the alphabet does not depend on which module came first.
    """
    known: dict[int, str] = {}
    for name, p in model.named_parameters(remove_duplicate=False):
        known[id(p)] = min(name, known.get(id(p), name))
    params = [p for group in optimizer.param_groups for p in group["params"]]
    return [known.get(id(p), f"parameter {index}") for index, p in enumerate(params)]


def _own_groups(names: Sequence[str], optimizer: Optimizer) -> list[list[str]]:
    rest = iter(names)
    return [[next(rest) for _ in group["params"]] for group in optimizer.param_groups]


def _matched(saved: Sequence[Mapping[str, Any]], own: Sequence[Sequence[str]]) -> list[Mapping[str, Any]]:
    """The saved group of each group of names.

    Raises:
        RunError: there are others.
    """
    rest, found = list(saved), []
    for names in own:
        match = next((group for group in rest if sorted(group["params"]) == sorted(names)), None)
        if match is not None:
            rest.remove(match)
            found.append(match)
    if len(found) == len(own) and not rest:
        return found
    there = [list(group["params"]) for group in saved]
    raise RunError(
        f"The checkpoint's optimizer has groups of {_counts(there)} parameters, this one of {_counts(own)}, "
        f"or of other ones{_difference(there, own)}."
    )


def _counts(groups: Sequence[Sequence[str]]) -> str:
    return " and ".join(str(len(group)) for group in groups)


def _difference(saved: Sequence[Sequence[str]], own: Sequence[Sequence[str]]) -> str:
    there, here = ({name for group in groups for name in group} for groups in (saved, own))
    parts = [f"only there: {', '.join(sorted(there - here)[:SHOWN])}"] if there - here else []
    parts += [f"only here: {', '.join(sorted(here - there)[:SHOWN])}"] if here - there else []
    return f" ({'; '.join(parts)})" if parts else ""


def _as_saved(loaded: Any, saved: Any) -> Any:
    """State as it was loaded, in the dtypes that it was saved in."""
    if isinstance(loaded, Tensor) and isinstance(saved, Tensor):
        return loaded if loaded.dtype == saved.dtype else saved.to(loaded.device)
    if isinstance(loaded, dict) and isinstance(saved, Mapping):
        return {key: _as_saved(value, saved.get(key)) for key, value in loaded.items()}
    return loaded


def _without(group: Mapping[str, Any], names: set[str]) -> dict[str, Any]:
    return {key: value for key, value in group.items() if key not in names}


# ---- tensors --------------------------------------------------------------------------------------------------------


def copied(value: Any) -> Any:
    """Plain data with a copy on the CPU, whole, in the place of every tensor."""
    return _map(value, _copy)


def _map(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """`value` with every tensor in it changed."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, Mapping):
        return {key: _map(item, change) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_map(item, change) for item in value)
    return copy.deepcopy(value)


def _copy(value: Tensor) -> Tensor:
    return _whole(value.detach()).to("cpu", copy=True)


def _whole(value: Tensor) -> Tensor:
    return value.full_tensor() if _is_divided(value) else value  # pyright: ignore[reportAttributeAccessIssue]


def _is_divided(value: Tensor) -> bool:
    # Asking for the class would import torch.distributed.tensor in runs of one process.
    return hasattr(value, "full_tensor") and hasattr(value, "placements")


def like(value: Tensor, other: Tensor) -> Tensor:
    """`value`, which every process has whole, divided as `other` is."""
    if not _is_divided(other):
        return value
    from torch.distributed.tensor import distribute_tensor

    mesh, placements = other.device_mesh, other.placements  # pyright: ignore[reportAttributeAccessIssue]
    return distribute_tensor(value.to(mesh.device_type), mesh, placements, src_data_rank=None)


def _like_state(value: Tensor, p: Tensor) -> Tensor:
    """A copy; elementwise state is divided as its parameter is, what is one number for a tensor is not."""
    return like(value.clone(), p) if value.shape == p.shape and p.dim() else value.clone()
