"""Calls of a model with the input of a batch: one argument, keyword arguments or positional arguments."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from dashpot.errors import ArgumentError

_Parameter = inspect.Parameter
_POSITIONAL = (_Parameter.POSITIONAL_ONLY, _Parameter.POSITIONAL_OR_KEYWORD)
_NAMED = (_Parameter.POSITIONAL_OR_KEYWORD, _Parameter.KEYWORD_ONLY)


def call_model(model: nn.Module, x: Any, call: Callable[..., Any] | None = None, part: str | None = None) -> Any:
    """Return the output of a model for the input `x` of a batch.

    * A mapping or a named tuple is passed as keyword arguments if `model.forward` accepts all of its names.
    * A tuple, or a list for a model that requires several arguments, is passed as positional arguments if
      `model.forward` accepts as many.
    * All other inputs, and all inputs of a model that requires exactly one argument and does not accept the above, are
      passed as one argument.

    Args:
        model: Model whose `forward` defines the arguments.
        x: Input of a batch.
        call: Module to call, such as `model` wrapped by `DistributedDataParallel`. Default: `model`.
        part: Name of the loss for which the output is computed, if there are several. It is passed as the keyword
            argument `part` if `model.forward` has this argument.

    Returns:
        The output of the call.

    Raises:
        ArgumentError: If `x` has several entries that do not match the arguments of `model.forward`.

    >>> import torch
    >>> model = nn.Bilinear(2, 3, 1)
    >>> call_model(model, {"input1": torch.ones(4, 2), "input2": torch.ones(4, 3)}).shape
    torch.Size([4, 1])
    >>> call_model(model, (torch.ones(4, 2), torch.ones(4, 3))).shape
    torch.Size([4, 1])
    """
    call = model if call is None else call
    given = {} if part is None or not _has_part(model) else {"part": part}
    if isinstance(x, Tensor) or not isinstance(x, (Mapping, tuple, list)):
        return call(x, **given)
    args, kwargs = _arguments(model, x, given)
    return call(*args, **kwargs, **given)


def _has_part(model: nn.Module) -> bool:
    return any(p.name == "part" for p in _parameters(model) or ())


def _arguments(model: nn.Module, x: Any, given: Mapping[str, Any]) -> tuple[Sequence[Any], Mapping[str, Any]]:
    """Return the positional and the keyword arguments for `x`, in addition to the keyword arguments `given`."""
    parameters = _parameters(model)
    if parameters is None:
        return (x,), {}
    parameters = [p for p in parameters if p.name not in given]
    required = [p for p in parameters if p.default is p.empty and p.kind in (*_POSITIONAL, _Parameter.KEYWORD_ONLY)]
    fields = _fields(x)
    if fields is not None and _accepts_names(parameters, required, fields):
        return (), fields
    if _is_sequence(x, required) and _accepts_count(parameters, required, len(x)):
        return x, {}
    if len(required) > 1 or (isinstance(x, Mapping) and _is_partial_match(parameters, x)):
        got = f"the keys {', '.join(map(str, fields))}" if fields is not None else f"{len(x)} inputs"
        raise ArgumentError(
            f"The input x must match the arguments of {type(model).__name__}.forward, "
            f"{', '.join(str(p).partition(':')[0].partition('=')[0].strip() for p in parameters)}, got {got}."
        )
    return (x,), {}


def _parameters(model: nn.Module) -> list[_Parameter] | None:
    """Return the parameters of `forward`; None if its signature is unknown."""
    model = getattr(model, "_orig_mod", model)  # compiled by torch.compile
    try:
        return list(inspect.signature(model.forward).parameters.values())
    except (TypeError, ValueError):
        return None


def _fields(x: Any) -> dict[str, Any] | None:
    """Return the entries of a mapping with string keys or of a named tuple by name; None for other values."""
    if isinstance(x, Mapping):
        return dict(x) if all(isinstance(key, str) for key in x) else None
    return dict(zip(x._fields, x, strict=True)) if hasattr(x, "_fields") else None


def _accepts_names(parameters: list[_Parameter], required: list[_Parameter], names: Mapping[str, Any]) -> bool:
    named = {p.name for p in parameters if p.kind in _NAMED}
    accepts_any = any(p.kind is _Parameter.VAR_KEYWORD for p in parameters)
    return (accepts_any or names.keys() <= named) and all(p.name in names for p in required)


def _is_sequence(x: Any, required: list[_Parameter]) -> bool:
    """Return whether `x` is a sequence of arguments; a list may be one argument, such as a list of examples."""
    return (isinstance(x, tuple) and not hasattr(x, "_fields")) or (isinstance(x, list) and len(required) > 1)


def _accepts_count(parameters: list[_Parameter], required: list[_Parameter], count: int) -> bool:
    if any(p.kind is _Parameter.KEYWORD_ONLY for p in required):
        return False
    if any(p.kind is _Parameter.VAR_POSITIONAL for p in parameters):
        return count >= len(required)
    return len(required) <= count <= sum(p.kind in _POSITIONAL for p in parameters)


def _is_partial_match(parameters: list[_Parameter], x: Mapping[Any, Any]) -> bool:
    """Return whether `forward` has several parameters, and some of the keys of `x` name one of them."""
    return len(parameters) > 1 and any(p.name in x for p in parameters if p.kind in _NAMED)
