"""References by name: the class of torch.optim that equals a method, and other classes by their path."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import torch

from dashpot.constraints import unknown
from dashpot.errors import ArgumentError
from dashpot.optimizers import registry
from dashpot.optimizers.options import ResolvedOptions

__all__ = ["by_path", "is_path", "reference"]

ENGINES = ("eager", "compiled")
CLIPPING = {"max_norm", "clip_value", "adaptive_clip"}
"""Of the options that are none of the method's settings, those that change what it computes."""


class Counterpart(NamedTuple):
    """A class of torch.optim, the names it has for settings of ours, and settings that make it the same method."""

    make: Callable[..., Any]
    names: Mapping[str, str] = {}
    settings: Mapping[str, Any] = {}


IN_TORCH: Mapping[str, Counterpart] = {
    "sgd": Counterpart(torch.optim.SGD),
    "heavy-ball": Counterpart(torch.optim.SGD, {"pole": "momentum"}, {"momentum": 0.9}),
    "nag": Counterpart(torch.optim.SGD, {"pole": "momentum"}, {"momentum": 0.9, "nesterov": True}),
    "rmsprop": Counterpart(torch.optim.RMSprop),
    "adam": Counterpart(torch.optim.Adam),
    "adamw": Counterpart(torch.optim.AdamW),
    "nadam": Counterpart(torch.optim.NAdam),
}


def is_path(name: str) -> bool:
    """Whether it names a class or function in a module or a file.

    >>> [is_path(name) for name in ("adamw", "torch.optim.AdamW", "mine.py:AdamW", "mine.py")]
    [False, True, True, True]
    """
    return "." in name


def by_path(option: str, path: str, settings: Mapping[str, Any]) -> Callable[[Any], Any]:
    """A function from parameters to what the class or function at a path makes with these settings.

    Args:
        option: the option it was given with, such as "--optimizer".
        path: `package.Class` or `path/to/file.py:Class`.
        settings: its keyword arguments.
    """
    return _guarded(f"{option} {path}", partial(_at(option, path), **settings))


def reference(against: str, method: str, lr: float | None, options: Mapping[str, Any]) -> Callable[[Any], Any]:
    """A function from parameters to the optimizer to compare a method with.

    Args:
        against: "torch" (the class of torch.optim that equals the method), "eager" or "compiled" (the method itself on
            that engine), another method, `torch.optim.NAME`, an importable `package.Class`, or `path/to/file.py:Class`.
        method: A name in `dashpot.optimizers.registry`, `autosgm-K` with the numerator among the options, or the path
            of another class.
        lr, options: What the method is made with. The reference takes the same, but for options of ours that do not
            change what is computed, such as `engine`.

    Raises `ArgumentError` where there is no such class, or it does not take a setting.

    >>> [group] = reference("torch", "nag", 0.1, {"pole": 0.8})([torch.zeros(1)]).param_groups
    >>> group["momentum"], group["nesterov"]
    (0.8, True)
    """
    rate = {} if lr is None else {"lr": lr}
    if against in ENGINES:
        if is_path(method):
            raise ArgumentError(f"verify: --against {against} needs a method of dashpot's, got {method}.")
        family, _ = registry.VARIANTS.get(method, (method, {}))
        return partial(registry.get(family), **{**rate, **options, "engine": against})
    found = _counterpart(against, method)
    given = {found.names.get(name, name): value for name, value in options.items()}
    taken = _taken(against, found.make, given)
    return _guarded(f"--against {against}", partial(found.make, **{**rate, **found.settings, **taken}))


def _guarded(name: str, make: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """`make`, whose refusals become one sentence."""

    def guarded(params: Any) -> Any:
        try:
            return make(params)
        except (TypeError, ValueError) as error:
            reason = str(error).partition("\n")[0].rstrip(".")
            raise ArgumentError(f"verify: {name} cannot be made ({reason}).") from error

    return guarded


def _counterpart(against: str, method: str) -> Counterpart:
    if against == "torch":
        if method not in IN_TORCH:
            eager = "" if is_path(method) else "--against eager compares it with the readable engine, "
            raise ArgumentError(
                f"verify: torch.optim has no counterpart of {method}; {eager}--against package.Class or "
                "path/to/file.py:Class compares it with that class."
            )
        return IN_TORCH[method]
    if against in registry.METHODS:
        return Counterpart(registry.get(against))
    if not is_path(against):
        raise unknown("reference", against, ["torch", *ENGINES, *registry.METHODS])
    return Counterpart(_at("--against", against))


def _at(option: str, path: str) -> Callable[..., Any]:
    """The class or function at a path."""
    if ".py:" in path:
        from dashpot.tasks.user_file import load_name

        found = load_name(path)
    elif path.endswith(".py"):
        raise ArgumentError(f"verify: {option} must name a class in the file, as in {path}:Class.")
    else:
        found = _imported(option, path)
    if not callable(found):
        raise ArgumentError(f"verify: {option} {path} must be an optimizer class or a function, got {found!r}.")
    return found


def _imported(option: str, path: str) -> Any:
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


def _taken(against: str, make: Callable[..., Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that `make` takes; it may only lack options that do not change what is computed."""
    parameters = inspect.signature(make).parameters
    if any(item.kind is inspect.Parameter.VAR_KEYWORD for item in parameters.values()):
        return dict(given)
    for name in given:
        if name not in parameters and name not in set(ResolvedOptions._fields) - CLIPPING:
            raise ArgumentError(f"verify: --against {against} takes no {name}, so that both would not do the same.")
    return {name: value for name, value in given.items() if name in parameters}
