"""Creation of optimizers that are not of dashpot, with one-line errors."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch.optim import Optimizer

from dashpot.constraints import shown
from dashpot.errors import ArgumentError
from dashpot.runs.probe import probe

COMBINE = (
    "A factory in a file can give other parameters to another optimizer and return both as a "
    "dashpot.comparison.CombinedOptimizer."
)


def make_checked(owner: str, make: Callable[..., Any], params: Iterable[Any], given: Mapping[str, Any]) -> Optimizer:
    """Create an optimizer and check that it can be compared.

    Args:
        owner: Name of the class or factory in messages.
        make: The class or factory.
        params: Parameters, or parameter groups.
        given: Keyword arguments of `make`.

    Raises:
        ArgumentError: If `make` raises an error, or does not return a torch optimizer of some of the parameters whose
            step needs no closure.
    """
    listed = list(params)
    try:
        made = make(list(listed), **given)
    except ArgumentError:
        raise
    except (Exception, SystemExit) as error:
        reason = " ".join(str(error).split()).rstrip(".") or "no reason is stated"
        accepted = probe(make, {name: value for name, value in given.items() if name != "model"}) is not None
        advice = f" {COMBINE}" if accepted else ""  # the settings are valid, and the parameters are not
        raise ArgumentError(f"{owner}: {type(error).__name__}: {reason}.{advice}") from error
    if not isinstance(made, Optimizer):
        raise ArgumentError(f"{owner} must create a torch.optim.Optimizer, got {shown(made)}.")
    if not hasattr(made, "param_groups"):
        raise ArgumentError(
            f"{owner} has no parameter groups; its __init__ must call super().__init__(params, defaults)."
        )
    if not _identities(made.param_groups) & _identities(listed):
        raise ArgumentError(f"{owner} must update parameters that it is given, got an optimizer of other tensors.")
    if needs_closure(made):
        raise ArgumentError(
            f"{owner}: step must not require a closure, since one step would evaluate the loss several times; use "
            "another optimizer."
        )
    return made


def _identities(params: Iterable[Any]) -> set[int]:
    """Return the identities of the tensors in parameters or parameter groups."""
    groups = (item["params"] if isinstance(item, Mapping) else [item] for item in params)
    return {id(p) for group in groups for p in ([group] if isinstance(group, torch.Tensor) else group)}


def needs_closure(optimizer: Optimizer) -> bool:
    """Return whether `step` requires a closure, as that of L-BFGS.

    >>> import torch
    >>> needs_closure(torch.optim.LBFGS([torch.zeros(1)])), needs_closure(torch.optim.SGD([torch.zeros(1)], lr=0.1))
    (True, False)
    """
    closure = inspect.signature(optimizer.step).parameters.get("closure")
    return closure is not None and closure.default is closure.empty
