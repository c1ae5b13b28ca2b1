"""Entries of a comparison by the names of methods."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from torch.optim import Optimizer

from dashpot.constraints import unknown
from dashpot.errors import ArgumentError
from dashpot.names import known_methods
from dashpot.optimizers import registry
from dashpot.optimizers.autosgm import AutoSGM, parse_tuple
from dashpot.optimizers.options import Options
from dashpot.runs.default_lr import default_lr
from dashpot.runs.entry import Entry
from dashpot.runs.entry_schedules import check_schedule, scheduled
from dashpot.runs.foreign_entries import foreign_entry
from dashpot.runs.method_names import is_foreign, unknown_method
from dashpot.utils.scalars import is_number


def known_entries() -> tuple[str, ...]:
    """Return the names that `entry` accepts: all methods, and `autosgm-K` for each numerator K."""
    return known_methods()


def entry(
    name: str,
    task: str,
    *,
    lr: float | None = None,
    schedule: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> Entry:
    """Create an entry for a method given by name; by default, with the learning rate tuned for `task`.

    Args:
        name: Name of a method listed by `dashpot methods`, `autosgm-K` for AutoSGM with numerator K from 0 to 4, a
            class such as `torch.optim.RAdam`, or `path/to/file.py:NAME` for a class or factory in a Python file.
        task: Name of the task. For a task without tuned learning rates, the generic rates are used.
        lr: Base learning rate, at least 0; None means the default for the task.
        schedule: Name of a schedule as for `dashpot.schedules.from_name`, optionally with options as in
            "warmup-cosine:warmup=0.05"; None keeps the learning rate constant. "1cycle" also schedules the momentum if
            the method has one; see `one_cycle`.
        options: Additional keyword arguments of the method.

    Raises:
        ArgumentError: If the method, an option or the schedule does not exist, or `lr` is out of range.

    >>> entry("autosgm-3", "digits", lr=0.01).call(steps=100)
    'dashpot.AutoSGM(model.parameters(), lr=0.01, numerator=3)'
    >>> print(entry("sgd", "digits", lr=0.1, schedule="1cycle", options={"momentum": 0.9}).call(steps=100))
    dashpot.SGD(model.parameters(), lr=0.1, momentum=0.9,
        schedule={'lr': OneCycle(steps=100, ...), 'momentum': OneCycleMomentum(steps=100, ...)})
    """
    if schedule is not None:
        check_schedule(schedule)
    if is_foreign(name):
        return foreign_entry(name, task, lr=lr, schedule=schedule, options=options or {})
    if name not in known_entries():
        raise unknown_method(name)
    family, settings = registry.VARIANTS.get(name, (name, {}))
    make = registry.get(family)
    given = {**settings, **(options or {})}
    _check_options(name, make, given)
    if make is AutoSGM:
        lr, given = _without_lr_cfg(name, lr, given)
    rate = default_lr(task, name) if lr is None else lr
    return Entry(name, make, rate, given, scheduled(name, make, given, schedule), schedule)


def _without_lr_cfg(name: str, lr: float | None, options: Mapping[str, Any]) -> tuple[float | None, dict[str, Any]]:
    """Return the learning rate and the options of AutoSGM, with the tuple `lr_cfg` as separate settings.

    The tuple `eps_cfg`, which has one element, may be given as a number.
    """
    given = {key: (value,) if key == "eps_cfg" and is_number(value) else value for key, value in options.items()}
    if "lr_cfg" not in given:
        return lr, given
    settings = parse_tuple("lr_cfg", given.pop("lr_cfg"))
    for key, value in {**given, **({} if lr is None else {"lr": lr})}.items():
        if settings.get(key, value) != value:
            raise ArgumentError(f"{name}: {key} must be given once, got {settings[key]} in lr_cfg and {value}.")
    rate = settings.pop("lr")
    return rate, {**given, **settings}


def _check_options(name: str, make: Callable[..., Optimizer], options: Mapping[str, Any]) -> None:
    """Check that the method `name` accepts the options."""
    parameters = inspect.signature(make).parameters.values()
    known = {item.name for item in parameters if item.kind is not inspect.Parameter.VAR_KEYWORD} | set(
        Options.__annotations__
    )
    known -= {"self", "params", "lr", "schedule"}
    if "lr" in options:
        raise ArgumentError(f"The settings of {name} must not contain lr; give the learning rate by lr (--lr).")
    for option in options:
        if option not in known:
            raise unknown(f"setting of {name}", option, known)
