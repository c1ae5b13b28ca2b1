"""Entries for optimizers that are not of dashpot: classes of torch.optim, and classes and factories in Python files."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.optim import Optimizer

from dashpot.constraints import ARGUMENTS, check, shown, unknown
from dashpot.errors import ArgumentError
from dashpot.optimizers.options import OPTION_NAMES, ResolvedOptions
from dashpot.runs.counterparts import COUNTERPARTS
from dashpot.runs.default_lr import default_lr
from dashpot.runs.entry import LOOP, Entry
from dashpot.runs.entry_schedules import scheduled
from dashpot.runs.makers import RESERVED, accepts, accepts_any, default_of, is_dashpot, parameters
from dashpot.runs.method_names import TORCH, entry_name, is_torch_name
from dashpot.runs.muon import PREFIX, MuonWithAdamW
from dashpot.runs.own_search_space import TABLE, own_space
from dashpot.tasks.user_file import load_from_file
from dashpot.utils.scalars import is_number

KIND = "Optimizer file"


@dataclass(frozen=True)
class _Found:
    """Class or factory of a method, its own search space as written by the user, and the checksum of its file."""

    make: Callable[..., Any]
    table: Any = None
    sha256: str | None = None


def foreign_entry(
    method: str, task: str, *, lr: float | None, schedule: str | None, options: Mapping[str, Any]
) -> Entry:
    """Create an entry for a class of torch.optim, or for a class or factory in a Python file.

    The rate of a class whose update is that of a method of dashpot is the one tuned for `task`; the rate of others is
    the default of their argument `lr`.

    Args:
        method: `torch.optim.NAME` or `path/to/file.py:NAME`.
        task: Name of the task.
        lr: Base learning rate, at least 0; None means the default.
        schedule: Name of a schedule, applied by the training loop; None keeps the learning rate constant.
        options: Keyword arguments of the class or factory, and `max_norm`, `clip_value` and `nonfinite`, which the
            training loop applies.

    Raises:
        ArgumentError: If there is no such class or file, an argument is unknown or out of range, there is no learning
            rate, or the search space of the file is invalid.

    >>> foreign_entry("torch.optim.RAdam", "digits", lr=None, schedule=None, options={"max_norm": 1.0}).call(steps=100)
    'torch.optim.RAdam(model.parameters(), lr=0.001)  # in the loop: max_norm=1.0'
    """
    found = _torch_class(method) if is_torch_name(method) else _from_file(method)
    make, given = found.make, dict(options)
    _check_settings(method, make, given)
    if make is MuonWithAdamW:
        given.setdefault(f"{PREFIX}lr", default_lr(task, "adamw"))
        check(method, f"{PREFIX}lr", given[f"{PREFIX}lr"], ARGUMENTS["lr"])
    rate = _rate(method, make, task) if lr is None else lr
    name, text = entry_name(method), schedule
    made = Entry(name, make, rate, given, scheduled(name, make, given, text), text, (), {}, method, found.sha256)
    return made if found.table is None else dataclasses.replace(made, space=own_space(made, found.table))


def _torch_class(method: str) -> _Found:
    name = method.removeprefix(TORCH)
    classes = {key: item for key, item in vars(torch.optim).items() if inspect.isclass(item)}
    known = [key for key, item in classes.items() if issubclass(item, Optimizer) and item is not Optimizer]
    if name not in known:
        raise unknown("class of torch.optim", name, known)
    if name == "SparseAdam":
        raise ArgumentError(f"{method} accepts only sparse gradients; use {TORCH}Adam, or combine both in a file.")
    if name == "Muon":
        return _Found(MuonWithAdamW, MuonWithAdamW.SEARCH_SPACE)
    return _Found(classes[name])


def _from_file(method: str) -> _Found:
    loaded = load_from_file(method, KIND)
    make = loaded.value
    if not callable(make):
        raise ArgumentError(f"{method} must be an optimizer class or a function, got {shown(make)}.")
    if "lr" not in parameters(make) and not is_dashpot(make):
        raise ArgumentError(f"{method} must have a parameter lr, the learning rate.")
    return _Found(make, getattr(make, TABLE, getattr(loaded.module, TABLE, None)), loaded.sha256)


def _rate(method: str, make: Callable[..., Any], task: str) -> float:
    """Return the learning rate of a method without one."""
    name = method.removeprefix(TORCH)
    if is_torch_name(method) and name in COUNTERPARTS:
        return default_lr(task, COUNTERPARTS[name])
    rate = default_of(make, "lr")
    if isinstance(rate, bool) or not is_number(rate):
        raise ArgumentError(f"{method} has no default learning rate; give one, as in {method}:lr=0.01.")
    return float(rate)


def _check_settings(method: str, make: Callable[..., Any], options: Mapping[str, Any]) -> None:
    """Check the names of the settings, and the values of those that the training loop applies."""
    if "lr" in options:
        raise ArgumentError(f"The settings of {method} must not contain lr; give the learning rate by lr (--lr).")
    known = {name for name in _settings(make) if name not in RESERVED} | set(LOOP)
    for name in options:
        if name in known or (accepts_any(make) and make is not MuonWithAdamW and name not in RESERVED):
            continue
        if name in OPTION_NAMES:
            raise ArgumentError(f"{method}: {name} is an option of the optimizers of dashpot; omit it for this one.")
        raise unknown(f"setting of {method}", name, known)
    ResolvedOptions.of(
        method, {name: value for name, value in options.items() if name in LOOP and not accepts(make, name)}
    )


def _settings(make: Callable[..., Any]) -> list[str]:
    if make is not MuonWithAdamW:
        return [*parameters(make), *(OPTION_NAMES if is_dashpot(make) else ())]
    adamw = [f"{PREFIX}{name}" for name in parameters(torch.optim.AdamW) if name != "params"]
    return [*parameters(torch.optim.Muon), *adamw]
