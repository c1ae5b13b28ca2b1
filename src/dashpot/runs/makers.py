"""Arguments of optimizer classes and factories, and the name under which they are imported."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from dashpot.optimizers.base import Optimizer

RESERVED = ("self", "params", "lr", "model", "schedule")
"""Parameters that are not settings of a method."""


def is_dashpot(make: Callable[..., Any]) -> bool:
    """Return whether `make` is an optimizer class of dashpot, which schedules and clips inside its step.

    >>> import dashpot, torch
    >>> is_dashpot(partial(dashpot.SGD, momentum=0.9)), is_dashpot(torch.optim.SGD)
    (True, False)
    """
    made = make.func if isinstance(make, partial) else make
    return inspect.isclass(made) and issubclass(made, Optimizer)


def parameters(make: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    """Return the parameters of `make` by name, without `*args` and `**kwargs`; empty if they are unknown."""
    try:
        found = inspect.signature(make).parameters
    except (TypeError, ValueError):
        return {}
    return {name: item for name, item in found.items() if item.kind not in (item.VAR_POSITIONAL, item.VAR_KEYWORD)}


def accepts(make: Callable[..., Any], name: str) -> bool:
    """Return whether `make` has a parameter `name`, or is a class of dashpot, which checks its arguments itself."""
    return is_dashpot(make) or name in parameters(make)


def accepts_any(make: Callable[..., Any]) -> bool:
    """Return whether `make` has a parameter `**kwargs`."""
    return any(item.kind is item.VAR_KEYWORD for item in inspect.signature(make).parameters.values())


def default_of(make: Callable[..., Any], name: str) -> Any:
    """Return the default of a parameter; None if there is no such parameter or no default."""
    item = parameters(make).get(name)
    return None if item is None or item.default is item.empty else item.default


def expression(make: Any) -> str:
    """Return an expression for the class or factory `make`.

    >>> import torch
    >>> expression(partial(torch.optim.SGD, momentum=0.9))
    'functools.partial(torch.optim.SGD, momentum=0.9)'
    """
    if isinstance(make, partial):
        given = [repr(value) for value in make.args] + [f"{key}={value!r}" for key, value in make.keywords.items()]
        return f"functools.partial({', '.join([expression(make.func), *given])})"
    if not hasattr(make, "__name__"):
        return f"{type(make).__module__}.{type(make).__name__}()"
    return f"{_origin(make)}.{make.__name__}"


def _origin(make: Callable[..., Any]) -> str:
    """Return the package that re-exports `make`, or the module of `make` if no package does."""
    for package in ("dashpot", "torch.optim"):
        if getattr(sys.modules.get(package), make.__name__, None) is make:
            return package
    module = sys.modules.get(make.__module__)
    file = getattr(module, "__file__", None)
    if file is not None and getattr(module, "__spec__", None) is None and make.__module__ != "__main__":
        return Path(file).stem  # a module of dashpot.tasks.user_file, whose name contains a checksum of its path
    return make.__module__
