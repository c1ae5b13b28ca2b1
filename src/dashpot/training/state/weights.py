"""Weights and optimizer state as full tensors, keyed by the names of the model's parameters."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from dashpot.errors import RunError
from dashpot.training.state import optimizer_form, tensor_names
from dashpot.training.state.group_settings import Kept
from dashpot.utils.group_params import group_params

NOTHING = Kept()
MAX_SHOWN = 6
"""Number of differences that an error message lists."""


# ---- the model ------------------------------------------------------------------------------------------------------


def model_state(model: nn.Module) -> dict[str, Any]:
    """Return a CPU copy of `model.state_dict()`. With sharded parameters, all ranks must call this function."""
    state = model.state_dict(keep_vars=True)
    once = {id(value): cpu_copy(value) for value in state.values()}  # one copy for tied parameters
    return {name: once[id(value)] for name, value in state.items()}


def check_model(model: nn.Module, state: Mapping[str, Any]) -> None:
    """Check that saved weights match the model; names are matched without the prefixes of wrappers.

    Raises:
        RunError: If names, shapes or dtypes differ; the message lists the differences.
    """
    own, state = model.state_dict(), tensor_names.matched(model, state)
    found = [f"{name} is only in the checkpoint" for name in state if name not in own]
    found += [f"{name} is only in the model" for name in own if name not in state]
    found += [text for name in state if name in own if (text := _mismatch(name, state[name], own[name]))]
    if found:
        more = f"; and {len(found) - MAX_SHOWN} more" if len(found) > MAX_SHOWN else ""
        raise RunError(f"The checkpoint does not match the model: {'; '.join(found[:MAX_SHOWN])}{more}.")


def load_model_state(model: nn.Module, state: Mapping[str, Any]) -> None:
    """Load weights and buffers; names are matched without the prefixes of wrappers.

    Raises:
        RunError: If names, shapes or dtypes differ; the model is left unchanged.
    """
    state = tensor_names.matched(model, state)
    check_model(model, state)
    own = model.state_dict()  # contains the version metadata that load_state_dict reads
    for name, value in own.items():
        own[name] = shard_like(state[name], value) if isinstance(value, Tensor) else state[name]
    model.load_state_dict(own)


def model_snapshot(model: nn.Module, state: Mapping[str, Any]) -> Callable[[], None]:
    """Return a function that restores the model after a failed load of `state`.

    Only modules with extra state of their own (`set_extra_state`) can reject a state that `check_model` accepts; for
    other models, nothing is copied.
    """
    if all(isinstance(value, Tensor) for value in state.values()):
        return lambda: None
    before, besides = cpu_copy(model.state_dict()), extra_state(model)

    def restore() -> None:
        load_model_state(model, before)
        load_extra_state(model, besides)

    return restore


def extra_state(model: nn.Module, frozen_by_callbacks: Collection[int] = ()) -> dict[str, Any]:
    """Return the state that `model.state_dict()` omits, as CPU copies.

    This state consists of non-persistent buffers, gradients kept from one step to the next, and the names of frozen
    parameters, without those that callbacks have frozen.
    """
    persistent, params = model.state_dict(), list(model.named_parameters())
    return {
        "buffers": {name: _full_cpu_copy(b) for name, b in model.named_buffers() if name not in persistent},
        "gradients": {name: _full_cpu_copy(p.grad) for name, p in params if p.grad is not None},
        "frozen": [name for name, p in params if not p.requires_grad and id(p) not in frozen_by_callbacks],
    }


def load_extra_state(model: nn.Module, state: Mapping[str, Any]) -> None:
    """Restore the state returned by `extra_state`, after `load_model`."""
    buffers, frozen = dict(model.named_buffers()), set(state["frozen"])
    for name, value in state["buffers"].items():
        if name in buffers and (buffers[name].shape, buffers[name].dtype) == (value.shape, value.dtype):
            buffers[name].copy_(shard_like(value, buffers[name]))
        elif name in buffers:  # a buffer that is replaced on demand, for example by a longer one
            path, _, last = name.rpartition(".")
            setattr(model.get_submodule(path), last, value.to(buffers[name].device))
    for name, p in model.named_parameters():
        p.requires_grad_(name not in frozen)
        grad = state["gradients"].get(name)
        p.grad = None if grad is None else shard_like(grad.clone(), p).to(p.device)


def check_extra_state(model: nn.Module, state: Mapping[str, Any]) -> None:
    """Check that the state returned by `extra_state` matches the model.

    Raises:
        RunError: If a buffer is missing, or the gradient or the name of a parameter does not match the model.
    """
    persistent, params = model.state_dict(), dict(model.named_parameters())
    missing = [name for name, _ in model.named_buffers() if name not in persistent and name not in state["buffers"]]
    found = [f"the buffer {name} is only in the model" for name in missing]
    for name, grad in state["gradients"].items():
        if name not in params:
            found.append(f"the gradient of {name} is only in the checkpoint")
        elif params[name].shape != grad.shape:
            found.append(f"the gradient of {name} has shape {tuple(grad.shape)} in the checkpoint")
    unknown = [name for name in state["frozen"] if name not in params]
    found += [f"the frozen parameter {name} is only in the checkpoint" for name in unknown]
    if found:
        raise RunError(f"The checkpoint does not match the model: {'; '.join(found[:MAX_SHOWN])}.")


def _mismatch(name: str, saved: Any, current: Any) -> str | None:
    """Describe how the types, shapes or dtypes of two values differ."""
    if not isinstance(current, Tensor) or is_lazy(current) or is_lazy(saved):
        return None
    if not isinstance(saved, Tensor):
        return f"{name} is a {type(saved).__name__} in the checkpoint, a tensor in the model"
    if saved.shape != current.shape:
        return f"{name} has shape {tuple(saved.shape)} in the checkpoint, {tuple(current.shape)} in the model"
    if saved.dtype != current.dtype:
        return f"{name} has dtype {saved.dtype} in the checkpoint, {current.dtype} in the model"
    return None


# ---- the optimizer --------------------------------------------------------------------------------------------------


def optimizer_state(model: nn.Module, optimizer: Optimizer) -> dict[str, Any]:
    """Return the optimizer's `state_dict` as CPU copies, with parameter names in place of indices."""
    plain, names = optimizer.state_dict(), _names(model, optimizer)
    own_names = {"params", "param_names"}
    state = {names[key] if key in range(len(names)) else key: item for key, item in plain["state"].items()}
    return cpu_copy(
        {
            **plain,
            "state": state,
            "forms": optimizer_form.forms(state),
            "param_groups": [
                {**_without(group, own_names), "params": [names[i] for i in group["params"]]}
                for group in plain["param_groups"]
            ],
        }
    )


def load_optimizer(
    model: nn.Module, optimizer: Optimizer, state: Mapping[str, Any], *, keep: Kept = NOTHING
) -> Callable[[], None]:
    """Load optimizer state; parameters are matched by name, and the groups may be in any order.

    The state keeps its saved dtypes, even where `Optimizer.load_state_dict` would cast the state.

    Args:
        model: Model that defines the names of the parameters.
        optimizer: Optimizer over the model's parameters.
        state: State returned by `optimizer_state`; it is neither modified nor referenced afterwards.
        keep: Settings of the groups that keep their current values.

    Returns:
        A function that undoes the load.

    Raises:
        RunError: If parameters or groups do not match, or the optimizer rejects the state. The optimizer is left
            unchanged.
    """
    names = _names(model, optimizer)
    index_of = {name: index for index, name in enumerate(names)}
    optimizer_form.check_state(optimizer, state)
    params = group_params(optimizer)
    full = {index_of.get(key, key): item for key, item in state["state"].items()}
    sharded = {
        key: _map(item, lambda value, p=params[key]: _shard_state(value, p)) if isinstance(key, int) else cpu_copy(item)
        for key, item in full.items()
    }
    saved = _matched(state["param_groups"], _own_groups(names, optimizer))
    own = zip(saved, optimizer.param_groups, _own_groups(names, optimizer), strict=True)
    groups = [
        {**keep.merged(_on_device_of(group, mine), mine, index), "params": [index_of[name] for name in theirs]}
        for index, (group, mine, theirs) in enumerate(own)
    ]  # without `param_names`, torch keeps the current names
    optimizer_form.check_groups(optimizer, groups)
    before = optimizer.state, [dict(group) for group in optimizer.param_groups]

    def undo() -> None:
        # __setstate__ also resets values that the optimizer has derived from its state.
        optimizer.__setstate__({"state": before[0], "param_groups": before[1]})

    try:
        optimizer.load_state_dict({**_without(state, {"forms"}), "state": sharded, "param_groups": groups})
    except Exception as error:
        undo()
        raise RunError(f"The optimizer state of the checkpoint cannot be loaded: {error}") from error
    if lost := optimizer_form.lost_hyperparameter(optimizer, before[1]):
        undo()
        raise RunError(f"The optimizer state of the checkpoint is damaged: {lost} is missing.")
    for index, p in enumerate(params):
        if index in sharded:
            optimizer.state[p] = _as_saved(optimizer.state[p], sharded[index])
    return undo


def group_names(model: nn.Module, optimizer: Optimizer) -> list[str]:
    """Return a name for each parameter group: the alphabetically first name of its parameters."""
    return [min(names, default="no parameters") for names in _own_groups(_names(model, optimizer), optimizer)]


def _on_device_of(group: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Return a saved group, with tensors copied to the devices of the tensors in the current group."""
    moved = {
        key: value.clone().to(own[key].device)
        for key, value in group.items()
        if isinstance(value, Tensor) and isinstance(own.get(key), Tensor)
    }
    return {**_without(group, {"param_names"}), **moved}


def _names(model: nn.Module, optimizer: Optimizer) -> list[str]:
    """Return the names of the optimizer's parameters, in order; a parameter outside the model is "parameter N".

    A tied parameter has several names; the alphabetically first name is returned, because this choice does not depend
    on the order of the modules.
    """
    known: dict[int, str] = {}
    for name, p in model.named_parameters(remove_duplicate=False):
        known[id(p)] = min(name, known.get(id(p), name))
    return [known.get(id(p), f"parameter {index}") for index, p in enumerate(group_params(optimizer))]


def _own_groups(names: Sequence[str], optimizer: Optimizer) -> list[list[str]]:
    rest = iter(names)
    return [[next(rest) for _ in group["params"]] for group in optimizer.param_groups]


def _matched(saved: Sequence[Mapping[str, Any]], own: Sequence[Sequence[str]]) -> list[Mapping[str, Any]]:
    """Return, for each group of names, the saved group with the same parameters.

    Raises:
        RunError: If the groups do not match one to one.
    """
    rest, found = list(saved), []
    for names in own:
        match = next((group for group in rest if sorted(group["params"]) == sorted(names)), None)
        if match is not None:
            rest.remove(match)
            found.append(match)
    if len(found) == len(own) and not rest:
        return found
    theirs = [list(group["params"]) for group in saved]
    raise RunError(
        f"The parameter groups of the checkpoint do not match the optimizer's: saved groups of {_counts(theirs)} "
        f"parameters, current groups of {_counts(own)}{_difference(theirs, own)}."
    )


def _counts(groups: Sequence[Sequence[str]]) -> str:
    return " and ".join(str(len(group)) for group in groups)


def _difference(saved: Sequence[Sequence[str]], own: Sequence[Sequence[str]]) -> str:
    theirs, ours = ({name for group in groups for name in group} for groups in (saved, own))
    parts = [f"only saved: {', '.join(sorted(theirs - ours)[:MAX_SHOWN])}"] if theirs - ours else []
    parts += [f"only current: {', '.join(sorted(ours - theirs)[:MAX_SHOWN])}"] if ours - theirs else []
    return f" ({'; '.join(parts)})" if parts else ""


def _as_saved(loaded: Any, saved: Any) -> Any:
    """Return the loaded state, in which tensors with a changed dtype are replaced by the saved tensors."""
    if isinstance(loaded, Tensor) and isinstance(saved, Tensor):
        return loaded if loaded.dtype == saved.dtype else saved.to(loaded.device)
    if isinstance(loaded, dict) and isinstance(saved, Mapping):
        return {key: _as_saved(value, saved.get(key)) for key, value in loaded.items()}
    return loaded


def _without(group: Mapping[str, Any], names: set[str]) -> dict[str, Any]:
    return {key: value for key, value in group.items() if key not in names}


# ---- tensors --------------------------------------------------------------------------------------------------------


def cpu_copy(value: Any) -> Any:
    """Return a deep copy of plain data, with every tensor gathered and on the CPU."""
    return _map(value, _full_cpu_copy)


def _map(value: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """Apply `function` to every tensor in nested plain data."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, Mapping):
        return {key: _map(item, function) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_map(item, function) for item in value)
    return copy.deepcopy(value)


def _full_cpu_copy(value: Tensor) -> Tensor:
    value = value.detach()
    full = value.full_tensor() if _is_sharded(value) else value  # pyright: ignore[reportAttributeAccessIssue]
    return full.to("cpu", copy=True)


def _is_sharded(value: Tensor) -> bool:
    # A check with isinstance would import torch.distributed.tensor in single-process runs.
    return hasattr(value, "full_tensor") and hasattr(value, "placements")


def shard_like(value: Tensor, other: Tensor) -> Tensor:
    """Shard a full tensor, which must be equal on every rank, in the same way as `other`."""
    if not _is_sharded(other):
        return value
    from torch.distributed.tensor import distribute_tensor

    mesh, placements = other.device_mesh, other.placements  # pyright: ignore[reportAttributeAccessIssue]
    return distribute_tensor(value.to(mesh.device_type), mesh, placements, src_data_rank=None)


def _shard_state(value: Tensor, p: Tensor) -> Tensor:
    """Return a copy of `value`; elementwise state is sharded like the parameter `p`; scalar state is not sharded."""
    return shard_like(value.clone(), p) if value.shape == p.shape and p.dim() else value.clone()
