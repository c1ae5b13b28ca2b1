"""Weights and optimizer state as whole tensors under the names of the model's parameters, whoever holds which part."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from dashpot.errors import RunError

__all__ = ["load_model", "load_optimizer", "model_state", "optimizer_state"]

SHOWN = 6


def model_state(model: nn.Module) -> dict[str, Tensor]:
    """Every parameter and buffer of `model` as a copy on the CPU; with sharded ones every process has to ask."""
    return {name: _copy(value) for name, value in model.state_dict().items()}


def load_model(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Put weights and buffers back.

    Raises:
        RunError: names or shapes differ; each is listed, and nothing is changed.
    """
    own = model.state_dict()
    _check_same({name: tuple(v.shape) for name, v in state.items()}, {name: tuple(v.shape) for name, v in own.items()})
    with torch.no_grad():
        for name, value in own.items():
            value.copy_(_like(state[name], value))


def optimizer_state(model: nn.Module, optimizer: Optimizer) -> dict[str, Any]:
    """The optimizer's `state_dict` with names of parameters in the place of their numbers."""
    plain, names = optimizer.state_dict(), _names(model, optimizer)
    return {
        **plain,
        "state": {names[index]: _map(state, _copy) for index, state in plain["state"].items()},
        "param_groups": [{**group, "params": [names[i] for i in group["params"]]} for group in plain["param_groups"]],
    }


def load_optimizer(model: nn.Module, optimizer: Optimizer, state: Mapping[str, Any]) -> None:
    """Put an optimizer's state back, matched by the names of the parameters.

    Raises:
        RunError: it is of other parameters or groups, or the optimizer refuses it.
    """
    names = _names(model, optimizer)
    index_of = {name: index for index, name in enumerate(names)}
    params = [p for group in optimizer.param_groups for p in group["params"]]
    saved, own = _grouped(state["param_groups"]), [sorted(group) for group in _own_groups(names, optimizer)]
    if [sorted(group) for group in saved] != own:
        raise RunError(
            f"The checkpoint's optimizer has groups of {_counts(saved)} parameters, this one of {_counts(own)}, "
            f"or of other ones{_unlike(saved, own)}."
        )
    spread = {
        index_of[name]: _map(values, lambda value, p=params[index_of[name]]: _like_state(value, p))
        for name, values in state["state"].items()
    }
    # The order of names within a group is the optimizer's own.
    groups = [
        {**group, "params": [index_of[name] for name in mine]}
        for group, mine in zip(state["param_groups"], _own_groups(names, optimizer), strict=True)
    ]
    try:
        optimizer.load_state_dict({**state, "state": spread, "param_groups": groups})
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(f"The checkpoint's optimizer state does not fit: {error}") from error


def _names(model: nn.Module, optimizer: Optimizer) -> list[str]:
    """The name of every parameter of the optimizer, in its order; one that is not the model's goes by its number."""
    known = {id(p): name for name, p in model.named_parameters()}
    params = [p for group in optimizer.param_groups for p in group["params"]]
    return [known.get(id(p), f"parameter {index}") for index, p in enumerate(params)]


def _own_groups(names: list[str], optimizer: Optimizer) -> list[list[str]]:
    rest = iter(names)
    return [[next(rest) for _ in group["params"]] for group in optimizer.param_groups]


def _grouped(groups: Iterable[Mapping[str, Any]]) -> list[list[str]]:
    return [list(group["params"]) for group in groups]


def _counts(groups: list[list[str]]) -> str:
    return " and ".join(str(len(group)) for group in groups)


def _unlike(saved: list[list[str]], own: list[list[str]]) -> str:
    there, here = ({name for group in groups for name in group} for groups in (saved, own))
    parts = [f"only there: {', '.join(sorted(there - here)[:SHOWN])}"] if there - here else []
    parts += [f"only here: {', '.join(sorted(here - there)[:SHOWN])}"] if here - there else []
    return f" ({'; '.join(parts)})" if parts else ""


def _check_same(there: Mapping[str, tuple[int, ...]], here: Mapping[str, tuple[int, ...]]) -> None:
    found = [f"{name} is only in the checkpoint" for name in there if name not in here]
    found += [f"{name} is only in the model" for name in here if name not in there]
    found += [
        f"{name} has shape {there[name]} there and {here[name]} here"
        for name in there
        if name in here and there[name] != here[name]
    ]
    if found:
        more = f"; and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
        raise RunError(f"The checkpoint is of another model: {'; '.join(found[:SHOWN])}{more}.")


def _map(value: Any, change: Any) -> Any:
    """`value` with every tensor in it changed."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, Mapping):
        return {key: _map(item, change) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_map(item, change) for item in value)
    return value


def _copy(value: Tensor) -> Tensor:
    return _whole(value.detach()).to("cpu", copy=True)


def _whole(value: Tensor) -> Tensor:
    return value.full_tensor() if _is_divided(value) else value  # pyright: ignore[reportAttributeAccessIssue]


def _is_divided(value: Tensor) -> bool:
    # Asking for the class would import torch.distributed.tensor in runs of one process.
    return hasattr(value, "full_tensor") and hasattr(value, "placements")


def _like(value: Tensor, other: Tensor) -> Tensor:
    """`value`, which every process has whole, divided as `other` is."""
    if not _is_divided(other):
        return value
    from torch.distributed.tensor import distribute_tensor

    mesh, placements = other.device_mesh, other.placements  # pyright: ignore[reportAttributeAccessIssue]
    return distribute_tensor(value.to(mesh.device_type), mesh, placements, src_data_rank=None)


def _like_state(value: Tensor, p: Tensor) -> Tensor:
    """Elementwise state is divided as its parameter is; what is one number for a tensor is not."""
    return _like(value, p) if value.shape == p.shape and p.dim() else value
