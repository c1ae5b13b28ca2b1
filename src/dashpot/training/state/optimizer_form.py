"""Checks of saved optimizer state, which torch's optimizers load without validation.

A checkpoint contains the form of every entry of the state, so that entries that are missing or have a different type,
shape or dtype are found. Files of earlier versions do not contain forms.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from dashpot.errors import ArgumentError, RunError
from dashpot.utils.schema import Like, SchemaError, joined, require, violation

FORMS = "forms"
"""Key of the forms in the saved state of an optimizer."""


def forms(state: Mapping[Any, Any]) -> dict[Any, Any]:
    """Return the form of each entry of the state of an optimizer: the dtype and shape of a tensor, or the type.

    >>> forms({"weight": {"step": torch.tensor(1.0), "exp_avg": torch.zeros(2, 3)}})
    {'weight': {'step': 'float32[]', 'exp_avg': 'float32[2, 3]'}}
    """
    return {key: forms(item) if isinstance(item, Mapping) else _form(item) for key, item in state.items()}


def check_state(optimizer: Optimizer, saved: Mapping[str, Any]) -> None:
    """Check the saved state of an optimizer against the saved forms.

    Raises:
        RunError: If an entry is missing or has a different form, or the state is empty although the optimizer has state
            after its first step.
    """
    if FORMS in saved:
        found = _differences(saved[FORMS], forms(saved["state"]), "optimizer.state")
        if found:
            raise _error(found)
    elif not saved["state"] and _has_state(optimizer):
        raise _error(f"optimizer.state must contain the state of {type(optimizer).__name__}, got an empty dict")


def check_groups(optimizer: Optimizer, groups: Sequence[Mapping[str, Any]]) -> None:
    """Check the hyperparameters of saved groups, which correspond to the groups of the optimizer in this order.

    Raises:
        RunError: If a hyperparameter has a different type than in the optimizer, or is out of range.
    """
    for index, (group, own) in enumerate(zip(groups, optimizer.param_groups, strict=True)):
        for name in own.keys() & group.keys() - {"params", "param_names"}:
            path = joined(f"optimizer.param_groups[{index}]", name)
            try:
                require(Like(own[name]), group[name], path)
                _check_flag(optimizer, own[name], group[name], path)
                _check_range(optimizer, name, group[name])
            except SchemaError as error:
                raise _error(str(error)) from error
            except (ValueError, TypeError, RuntimeError) as error:  # from the constructor
                raise _error(f"{path}: {error}") from error


def lost_hyperparameter(optimizer: Optimizer, before: Sequence[Mapping[str, Any]]) -> str | None:
    """Return the path of a hyperparameter that a group had before the load and lacks now, or None."""
    for index, (group, own) in enumerate(zip(optimizer.param_groups, before, strict=True)):
        for name in sorted(own.keys() & optimizer.defaults.keys() - group.keys()):
            return joined(f"optimizer.param_groups[{index}]", name)
    return None


def _form(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}"
    if isinstance(value, (list, tuple)):
        return f"{type(value).__name__}({', '.join(map(_form, value))})"
    return type(value).__name__


def _differences(saved: Any, found: Any, path: str) -> str | None:
    """Return a description of the first difference between two nested forms, or None."""
    if not (isinstance(saved, Mapping) and isinstance(found, Mapping)):
        return None if saved == found else f"{path} must have the form {_short(saved)}, got {_short(found)}"
    for key in {**saved, **found}:
        if key not in found:
            return f"{joined(path, key)} is missing"
        if key not in saved:
            return f"{joined(path, key)} is unexpected"
        if text := _differences(saved[key], found[key], joined(path, key)):
            return text
    return None


def _short(form: Any) -> str:
    return form if isinstance(form, str) and len(form) < 100 else f"a {type(form).__name__}"


def _has_state(optimizer: Optimizer) -> bool:
    """Return whether an optimizer is known to have state after its first step."""
    try:
        recipe = getattr(optimizer, "recipe", None)
    except ArgumentError:  # a schedule that recipes cannot represent
        recipe = None
    if recipe is not None:
        return bool(recipe.slots)
    if type(optimizer) is torch.optim.SGD:
        return any(group["momentum"] for group in optimizer.param_groups)
    return type(optimizer).__module__.startswith("torch.optim.")


def _check_flag(optimizer: Optimizer, own: Any, value: Any, path: str) -> None:
    """Check that a flag has its value; for dashpot's optimizers, the recipes are compared instead."""
    if hasattr(type(optimizer), "recipe"):
        return
    if isinstance(own, bool) and own != value:
        raise violation(path, str(own), value)
    if own is None and value is not None and not isinstance(value, bool):
        raise violation(path, "None or a flag", value)


def _check_range(optimizer: Optimizer, name: str, value: Any) -> None:
    """Check a hyperparameter of a torch optimizer with the constructor, which is the only code that checks it."""
    kind = type(optimizer)
    numeric = isinstance(value, (int, float, tuple, list)) and not isinstance(value, bool)
    if kind.__module__.startswith("torch.optim.") and numeric and name in inspect.signature(kind).parameters:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            kind([torch.zeros(1, 1, requires_grad=True)], **{name: value})  # pyright: ignore


def _error(text: str) -> RunError:
    return RunError(f"The optimizer state of the checkpoint is damaged: {text}.")
