"""Reference optimizers: counterparts in torch.optim by name, and other classes by path."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import torch

from dashpot.constraints import shown, unknown
from dashpot.errors import ArgumentError
from dashpot.optimizers import registry
from dashpot.optimizers.options import ResolvedOptions
from dashpot.utils.format import reason

ENGINES = ("eager", "compiled")
CLIPPING = {"max_norm", "clip_value", "adaptive_clip"}
"""Options that change the results although they are not settings of the method."""


class Counterpart(NamedTuple):
    """A class of torch.optim, the mapping from dashpot's setting names to torch's names, and fixed settings."""

    factory: Callable[..., Any]
    names: Mapping[str, str] = {}
    settings: Mapping[str, Any] = {}


TORCH_COUNTERPARTS: Mapping[str, Counterpart] = {
    "sgd": Counterpart(torch.optim.SGD),
    "heavy-ball": Counterpart(torch.optim.SGD, {"pole": "momentum"}, {"momentum": 0.9}),
    "nag": Counterpart(torch.optim.SGD, {"pole": "momentum"}, {"momentum": 0.9, "nesterov": True}),
    "rmsprop": Counterpart(torch.optim.RMSprop),
    "adagrad": Counterpart(torch.optim.Adagrad),
    "adam": Counterpart(torch.optim.Adam),
    "adamw": Counterpart(torch.optim.AdamW),
    "nadam": Counterpart(torch.optim.NAdam),
}


def is_import_path(name: str) -> bool:
    """Return whether `name` is the path of a class or function in a module or a file.

    >>> [is_import_path(name) for name in ("adamw", "torch.optim.AdamW", "mine.py:AdamW", "mine.py")]
    [False, True, True, True]
    """
    return "." in name


def factory_from_path(option: str, path: str, settings: Mapping[str, Any]) -> Callable[[Any], Any]:
    """Return a function that takes parameters and creates an optimizer of the class at `path`.

    Args:
        option: Command-line option that error messages mention, such as "--optimizer".
        path: `package.Class` or `path/to/file.py:Class`.
        settings: Keyword arguments of the class.

    Raises:
        ArgumentError: If the class does not exist.
    """
    return _wrap_errors(f"{option} {path}", partial(_resolve(option, path), **settings))


def reference_factory(against: str, method: str, lr: float | None, options: Mapping[str, Any]) -> Callable[[Any], Any]:
    """Return a function that takes parameters and creates the reference optimizer for a method.

    Args:
        against: Reference: "torch" (the method's counterpart in torch.optim), "eager" or "compiled" (the method itself
            on the eager or compiled engine), the name of a different method, `torch.optim.NAME`, an importable
            `package.Class`, or `path/to/file.py:Class`.
        method: Method that is compared with the reference: a name in `dashpot.optimizers.registry`, `autosgm-K` if the
            numerator is among the options, or the path of a class.
        lr: Learning rate of both optimizers; None selects the default.
        options: Keyword arguments of the method. The reference receives the same arguments, except for dashpot options
            that do not change results, such as `engine`.

    Raises:
        ArgumentError: If the class does not exist or does not support one of the options.

    >>> [group] = reference_factory("torch", "nag", 0.1, {"pole": 0.8})([torch.zeros(1)]).param_groups
    >>> group["momentum"], group["nesterov"]
    (0.8, True)
    """
    rate = {} if lr is None else {"lr": lr}
    if against in ENGINES:
        if is_import_path(method):
            raise ArgumentError(
                f"verify: --optimizer must be a method of dashpot for --against {against}, got {method}."
            )
        family, _ = registry.VARIANTS.get(method, (method, {}))
        return partial(registry.get(family), **{**rate, **options, "engine": against})
    counterpart = _counterpart(against, method)
    renamed = {counterpart.names.get(name, name): value for name, value in options.items()}
    settings = {**rate, **counterpart.settings, **_supported_settings(against, counterpart.factory, renamed)}
    return _wrap_errors(f"--against {against}", partial(counterpart.factory, **settings))


def _wrap_errors(name: str, factory: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Wrap `factory` to convert its errors to an ArgumentError."""

    def wrapped(params: Any) -> Any:
        try:
            return factory(params)
        except (TypeError, ValueError) as error:
            raise ArgumentError(f"verify: {name} cannot be created ({reason(error)}).") from error

    return wrapped


def _counterpart(against: str, method: str) -> Counterpart:
    if against == "torch":
        if method not in TORCH_COUNTERPARTS:
            eager = "" if is_import_path(method) else "--against eager compares it with the eager engine, "
            raise ArgumentError(
                f"verify: torch.optim has no counterpart of {method}; {eager}--against package.Class or "
                "path/to/file.py:Class compares it with that class."
            )
        return TORCH_COUNTERPARTS[method]
    if against in registry.METHODS:
        return Counterpart(registry.get(against))
    if not is_import_path(against):
        raise unknown("reference", against, ["torch", *ENGINES, *registry.METHODS])
    return Counterpart(_resolve("--against", against))


def _resolve(option: str, path: str) -> Callable[..., Any]:
    """Return the class or function given by a path."""
    if ".py:" in path:
        from dashpot.tasks.user_file import load_object

        found = load_object(path)
    elif path.endswith(".py"):
        raise ArgumentError(f"verify: {option} must name a class in the file, as in {path}:Class.")
    else:
        found = _import(option, path)
    if not callable(found):
        raise ArgumentError(f"verify: {option} {path} must be an optimizer class or a function, got {shown(found)}.")
    return found


def _import(option: str, path: str) -> Any:
    module, _, name = path.rpartition(".")
    try:
        found = importlib.import_module(module)
    except ImportError as error:
        raise ArgumentError(
            f"verify: {option} {path} cannot be imported ({error}); a class in a file is path/to/file.py:Class."
        ) from error
    if not hasattr(found, name):
        raise unknown(f"class of {module}", name, [item for item in dir(found) if not item.startswith("_")])
    return getattr(found, name)


def _supported_settings(against: str, factory: Callable[..., Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that `factory` supports; all other settings must be options that do not change results."""
    parameters = inspect.signature(factory).parameters
    if any(item.kind is inspect.Parameter.VAR_KEYWORD for item in parameters.values()):
        return dict(settings)
    for name in settings:
        if name not in parameters and name not in set(ResolvedOptions._fields) - CLIPPING:
            raise ArgumentError(f"verify: --against {against} does not support {name}, so results would differ.")
    return {name: value for name, value in settings.items() if name in parameters}
