"""Optimizer classes that provide only a constructor, `step` and `zero_grad`, adapted to torch's interface."""

from __future__ import annotations

import copy
import inspect
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor
from torch.optim import Optimizer

from dashpot.errors import ArgumentError, RunError
from dashpot.utils.group_params import group_params
from dashpot.utils.nested import map_tensors
from dashpot.utils.scalars import is_immutable
from dashpot.utils.stateful import is_stateful
from dashpot.utils.warn import warn

OptimizerFactory = Callable[..., Any]

STATE = "wrapped object"
"""Key of the object's state; it differs from the names of parameters, which have no spaces."""

_WARNED: weakref.WeakSet[type] = weakref.WeakSet()
"""Classes whose limits have been stated in a warning."""


class SupportsStep(Protocol):
    """Object that is an optimizer to the learner: torch's optimizers, and any other class with these two methods."""

    def step(self) -> Any:
        """Update the parameters."""

    def zero_grad(self) -> Any:
        """Clear the gradients."""


class PlainOptimizer(Optimizer):
    """Torch optimizer that calls the methods `step` and `zero_grad` of any other object.

    The object is expected to hold the parameters that it updates. The adapter has one parameter group with these
    parameters and the object's *hyperparameters*: the arguments of its constructor that it stores as attributes of the
    same name, such as `self.lr = lr`. The values of the group and of the object are kept equal, so that schedules and
    recorders work for such attributes. If the object has `param_groups`, these groups are used instead. If it has no
    `state_dict` and `load_state_dict`, its state cannot be saved; a warning states this once.

    Args:
        wrapped: Object with methods `step()` and `zero_grad()`.
        params: Parameters of the model. If the object has an attribute `params`, those parameters are used instead.

    Attributes:
        wrapped: The object.

    Raises:
        ArgumentError: If the methods are missing or require arguments, or `params` of the object is an iterator.
    """

    def __init__(self, wrapped: Any, params: Iterable[Tensor]) -> None:
        _check_interface(wrapped)
        self.wrapped, self._previous = wrapped, None
        groups = getattr(wrapped, "param_groups", None)
        names = () if groups else _hyperparameters(wrapped)
        self._seen: dict[str, Any] = {name: getattr(wrapped, name) for name in names}
        defaults = {name: value for name, value in groups[0].items() if name != "params"} if groups else self._seen
        super().__init__(_own_params(wrapped, params), dict(defaults))
        self.param_groups = self.__dict__["param_groups"]
        self._warn_about_limits()

    # ---- parameter groups -------------------------------------------------------------------------------------------

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The groups of the object, or one group with its current hyperparameters."""
        self._synchronize()
        return getattr(self.wrapped, "param_groups", None) or self.__dict__["param_groups"]

    @param_groups.setter
    def param_groups(self, groups: list[dict[str, Any]]) -> None:
        self.__dict__["param_groups"] = [_Group(self.name, group) for group in groups]

    @property
    def name(self) -> str:
        """Name of the object's class."""
        return type(self.wrapped).__name__

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        own = self.__dict__["param_groups"]
        if own:
            raise ArgumentError(f"{self.name}: parameter groups cannot be added, because it is not a torch optimizer.")
        own.append({**self.defaults, **param_group})

    def _synchronize(self) -> None:
        """Copy changed values from the group to the object, or from the object to the group."""
        for group in self.__dict__["param_groups"]:
            for name, seen in self._seen.items():
                if name not in group:  # while torch constructs the group
                    continue
                own = getattr(self.wrapped, name)
                if not _same(group[name], seen):
                    self._set(name, group[name])
                elif not _same(own, seen):
                    group[name] = own
                self._seen[name] = group[name]

    def _set(self, name: str, value: Any) -> None:
        try:
            setattr(self.wrapped, name, value)
        except AttributeError as error:
            raise ArgumentError(
                f"{self.name}: attribute {name!r} must be writable to be scheduled ({error})."
            ) from error

    # ---- steps ------------------------------------------------------------------------------------------------------

    def step(self, closure: None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Call `step` of the object."""
        if closure is not None:
            raise ArgumentError(f"{self.name}: closure must be None, because it is not a torch optimizer.")
        self._synchronize()
        self._previous = None
        self._call(self.wrapped.step)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Call `zero_grad` of the object, if any parameter has a gradient."""
        if any(p.grad is not None for p in group_params(self)):
            self._call(self.wrapped.zero_grad)

    def _call(self, method: Callable[[], Any]) -> None:
        try:
            method()
        except (AttributeError, TypeError) as error:
            missing = sum(p.grad is None for p in group_params(self))
            if not missing:
                raise
            raise RunError(
                f"{self.name}: {method.__name__} fails ({error}), and {missing} parameters have no gradient; skip "
                "parameters whose grad is None."
            ) from error

    # ---- state ------------------------------------------------------------------------------------------------------

    @property
    def savable(self) -> bool:
        """Whether the object has `state_dict` and `load_state_dict`."""
        return is_stateful(self.wrapped)

    def state_dict(self) -> dict[str, Any]:
        """Return torch's state dict of the groups, whose state has a single entry, the state of the object."""
        check_savable(self)
        return {**super().state_dict(), "state": {STATE: self._state_of_wrapped()}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the state of the object, and then the hyperparameters of the group."""
        check_savable(self)
        if STATE not in state_dict["state"]:
            raise RunError(f"The state is not that of {self.name}, which is not a torch optimizer.")
        device = group_params(self)[0].device
        # 0-d tensors, such as step counts, stay on the CPU.
        loaded = map_tensors(lambda x: x.to(device) if x.dim() else x, copy.deepcopy(state_dict["state"][STATE]))
        previous = copy.deepcopy(self._state_of_wrapped())
        super().load_state_dict({**state_dict, "state": {}})
        self._previous = previous  # restored by __setstate__ if the load fails or is undone
        self.wrapped.load_state_dict(loaded)
        for name in self._seen:
            self._set(name, self.__dict__["param_groups"][0][name])

    def _state_of_wrapped(self) -> Mapping[str, Any]:
        state = self.wrapped.state_dict()
        if not isinstance(state, Mapping):
            raise RunError(f"{self.name}: state_dict must return a dict, got {type(state).__name__}.")
        return state

    def __getstate__(self) -> dict[str, Any]:
        own = {name: self.__dict__[name] for name in ("wrapped", "_seen", "_previous")}
        return {**super().__getstate__(), **own}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.param_groups = self.__dict__["param_groups"]  # pyright: ignore[reportIncompatibleVariableOverride]
        if self._previous is not None:
            self.wrapped.load_state_dict(self._previous)
            self._previous = None

    def __getattr__(self, name: str) -> Any:
        hint = (
            f"; the {type(wrapped).__name__} is its attribute wrapped" if (wrapped := vars(self).get("wrapped")) else ""
        )
        raise AttributeError(f"PlainOptimizer has no attribute {name!r}{hint}.")

    def _warn_about_limits(self) -> None:
        if type(self.wrapped) in _WARNED:
            return
        _WARNED.add(type(self.wrapped))
        limits = []
        if not self.savable:
            limits.append("its state is not saved, since it has no state_dict and load_state_dict")
        if "lr" not in self.defaults:
            limits.append("its learning rate is unknown to schedules and recorders, since it has no attribute lr")
        if limits:
            warn(f"{self.name} is not a torch optimizer: {', and '.join(limits)}.")


class _Group(dict[str, Any]):
    """Parameter group that raises a descriptive error for missing hyperparameters."""

    def __init__(self, name: str, group: Mapping[str, Any]) -> None:
        super().__init__(group)
        self._name = name

    def __missing__(self, key: str) -> Any:
        known = ", ".join(name for name in self if name != "params") or "none"
        raise ArgumentError(
            f"{self._name}: hyperparameter {key!r} must be an attribute that the constructor sets from its argument of "
            f"the same name; known are {known}."
        )


# ---- construction ----------------------------------------------------------------------------------------------------


def adapt(optimizer: Any, params: Iterable[Tensor]) -> Any:
    """Return a plain optimizer as a torch optimizer, and everything else unchanged.

    >>> import torch
    >>> opt = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.5)
    >>> adapt(opt, []) is opt
    True
    """
    if isinstance(optimizer, (Optimizer, type)) or not is_plain(optimizer):
        return optimizer
    return PlainOptimizer(optimizer, params)


def make_optimizer(factory: OptimizerFactory, params: Iterable[Tensor], lr: float | None) -> Any:
    """Return `factory(params, lr=lr)`, adapted to torch's interface.

    If the second argument of the factory is required and has a name other than lr, the factory is called as
    `factory(params, lr)`.

    Args:
        factory: Class or function that returns an optimizer.
        params: Parameters of the model, passed as a list.
        lr: Learning rate, or None to omit the argument.

    Raises:
        ArgumentError: If `lr` is given but the factory has no argument for it, or if `lr` is None but required.
    """
    params = list(params)
    given = getattr(factory, "__name__", repr(factory))
    kind, required = _lr_argument(factory)
    if lr is None:
        if required:
            raise ArgumentError(f"Learner: lr must be given, because {given} requires it.")
        return adapt(factory(params), params)
    if kind is None:
        raise ArgumentError(f"Learner: optimizer must accept the argument lr, got {given}, which does not.")
    return adapt(factory(params, lr) if kind == "positional" else factory(params, lr=lr), params)


def accepts_lr(factory: OptimizerFactory) -> bool:
    """Return whether a factory has an argument for the learning rate.

    >>> accepts_lr(lambda params, rate: None), accepts_lr(lambda params, momentum=0.9: None)
    (True, False)
    """
    return _lr_argument(factory)[0] is not None


def check_savable(optimizer: Any, owner: str = "Learner") -> None:
    """Check that the state of an optimizer can be saved.

    Raises:
        RunError: If a plain optimizer has no `state_dict` and `load_state_dict`, or its parameters are sharded.
    """
    if not isinstance(optimizer, PlainOptimizer):
        return
    if not optimizer.savable:
        raise RunError(
            f"{owner}: the state of {optimizer.name} cannot be saved; define the methods state_dict() and "
            "load_state_dict(state)."
        )
    if any(hasattr(p, "placements") for p in group_params(optimizer)):
        raise RunError(
            f"{owner}: the state of {optimizer.name} cannot be saved with strategy='fsdp'; use strategy='ddp'."
        )


def _lr_argument(factory: OptimizerFactory) -> tuple[str | None, bool]:
    """Return how a factory takes the learning rate ("keyword", "positional" or None), and whether it is required."""
    try:
        parameters = list(inspect.signature(factory).parameters.values())
    except (TypeError, ValueError):
        return "keyword", False
    named = {p.name: p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    if "lr" in named:
        return "keyword", named["lr"].default is inspect.Parameter.empty
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.POSITIONAL_ONLY)]
    if len(positional) > 1 and positional[1].default is inspect.Parameter.empty:
        return "positional", True
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return "keyword", False
    return ("positional" if any(p.kind is p.VAR_POSITIONAL for p in parameters) else None), False


def is_plain(optimizer: Any) -> bool:
    """Return whether an object has a method of a plain optimizer."""
    return any(callable(getattr(optimizer, name, None)) for name in ("step", "zero_grad"))


def _check_interface(wrapped: Any) -> None:
    name = type(wrapped).__name__
    for method in ("step", "zero_grad"):
        function = getattr(wrapped, method, None)
        if not callable(function):
            raise ArgumentError(
                f"Learner: optimizer must have the methods step and zero_grad, got {name} without {method}."
            )
        if required := [p.name for p in _parameters(function) if p.default is p.empty]:
            raise ArgumentError(
                f"Learner: optimizer must support {method}() without arguments, got {name}, whose {method} requires "
                f"{', '.join(required)}."
            )


def _own_params(wrapped: Any, params: Iterable[Tensor]) -> list[Tensor]:
    """Return the parameters that the object updates."""
    groups = getattr(wrapped, "param_groups", None)
    own = [p for group in groups for p in group["params"]] if groups else getattr(wrapped, "params", None)
    if isinstance(own, Iterator):
        raise ArgumentError(
            f"{type(wrapped).__name__}: params must be a list, got an iterator, which is exhausted after one step; "
            "store list(params)."
        )
    if isinstance(own, Sequence) and own and all(isinstance(p, Tensor) for p in own):
        return list(own)
    return list(params)


def _hyperparameters(wrapped: Any) -> list[str]:
    """Return the names of the constructor's arguments that are attributes with plain values or 0-d tensors."""
    names = dict.fromkeys(p.name for kind in type(wrapped).__mro__[:-1] for p in _parameters(kind.__init__))
    return [name for name in names if hasattr(wrapped, name) and _is_setting(getattr(wrapped, name))]


def _is_setting(value: Any) -> bool:
    return is_immutable(value) or (isinstance(value, Tensor) and value.dim() == 0 and not value.requires_grad)


def _parameters(function: Any) -> list[inspect.Parameter]:
    """Return the named parameters of a function; none if its signature is unknown."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return []
    return [p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]


def _same(a: Any, b: Any) -> bool:
    return a is b or (not isinstance(a, Tensor) and not isinstance(b, Tensor) and a == b)
