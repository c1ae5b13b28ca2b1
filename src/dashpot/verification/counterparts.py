"""References by name: the class of torch.optim that equals a method, and other classes by their path."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import torch

from dashpot import methods
from dashpot.constraints import unknown
from dashpot.errors import ArgumentError
from dashpot.options import Options

__all__ = ["reference"]

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


def reference(against: str, method: str, lr: float, options: Mapping[str, Any]) -> Callable[[Any], Any]:
    """A function from parameters to the optimizer to compare a method with.

    against
        "torch" (the class of torch.optim that equals the method), "eager" or "compiled" (the method itself on that
        engine), another method, `torch.optim.NAME`, an importable `package.Class`, or `path/to/file.py:Class`.
    method
        a name in `dashpot.methods`, or `autosgm-K` with the numerator among the options.
    lr, options
        what the method is made with. The reference takes the same, but for options of ours that do not change what is
        computed, such as `engine`.

    Raises `ArgumentError` where there is no such class, or it does not take a setting.

    >>> [group] = reference("torch", "nag", 0.1, {"pole": 0.8})([torch.zeros(1)]).param_groups
    >>> group["momentum"], group["nesterov"]
    (0.8, True)
    """
    if against in ENGINES:
        family = method if method in methods.METHODS else method.partition("-")[0]
        return partial(methods.get(family), lr=lr, **{**options, "engine": against})
    found = _counterpart(against, method)
    given = {found.names.get(name, name): value for name, value in options.items()}
    taken = _taken(against, found.make, given)
    return partial(found.make, **{"lr": lr, **found.settings, **taken})


def _counterpart(against: str, method: str) -> Counterpart:
    if against == "torch":
        if method not in IN_TORCH:
            raise ArgumentError(
                f"verify: torch.optim has no counterpart of {method}; --against eager compares it with the readable "
                "engine, --against package.Class with any class."
            )
        return IN_TORCH[method]
    if against in methods.METHODS:
        return Counterpart(methods.get(against))
    if ".py:" in against:
        from dashpot.tasks.user_file import load_name

        return Counterpart(_callable(against, load_name(against)))
    if "." not in against:
        raise unknown("reference", against, ["torch", *ENGINES, *methods.METHODS])
    return Counterpart(_callable(against, _imported(against)))


def _imported(path: str) -> Any:
    module, _, name = path.rpartition(".")
    try:
        found = importlib.import_module(module)
    except ImportError as error:
        raise ArgumentError(
            f"verify: --against {path} cannot be imported ({error}); a class in a file is path/to/file.py:Class."
        ) from error
    if not hasattr(found, name):
        raise unknown(f"class of {module}", name, [item for item in dir(found) if not item.startswith("_")])
    return getattr(found, name)


def _callable(against: str, value: Any) -> Callable[..., Any]:
    if not callable(value):
        raise ArgumentError(f"verify: --against {against} must be an optimizer class or a function, got {value!r}.")
    return value


def _taken(against: str, make: Callable[..., Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that `make` takes; it may only lack options that do not change what is computed."""
    parameters = inspect.signature(make).parameters
    if any(item.kind is inspect.Parameter.VAR_KEYWORD for item in parameters.values()):
        return dict(given)
    for name in given:
        if name not in parameters and name not in set(Options.__annotations__) - CLIPPING:
            raise ArgumentError(f"verify: --against {against} takes no {name}, so that both would not do the same.")
    return {name: value for name, value in given.items() if name in parameters}
