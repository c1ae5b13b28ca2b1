"""Entries of a comparison: methods with a name, a learning rate, options and a schedule."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from dashpot import schedules
from dashpot.constraints import ARGUMENTS, check, shown, unknown
from dashpot.errors import ArgumentError
from dashpot.names import known_methods
from dashpot.optimizers import registry
from dashpot.optimizers.autosgm import AutoSGM, parse_tuple
from dashpot.optimizers.options import Options
from dashpot.optimizers.param_groups import param_groups
from dashpot.runs.default_lr import default_lr
from dashpot.runs.records import NAME
from dashpot.schedules import OneCycleMomentum
from dashpot.utils.scalars import is_number
from dashpot.utils.warn import warn


@dataclass(frozen=True)
class Entry:
    """Named optimizer configuration of a comparison.

    Args:
        name: Name used for files and in charts. It may contain letters, digits, `-`, `_` and `.`, and must not start
            with `.`.
        make: Optimizer class or factory, called as `make(params, lr=lr, **options)`.
        lr: Base learning rate, at least 0.
        options: Additional keyword arguments of `make`.
        schedule: Function from the total number of steps to the keyword argument `schedule` of `make`; None omits the
            argument.
        schedule_name: Text from which `schedule` was made, such as "cosine:floor=0.1"; None for other functions.
        no_decay: Parameters without weight decay, as kinds and patterns of names for `dashpot.param_groups`.

    Raises:
        ArgumentError: If the name is invalid or `lr` is out of range.

    >>> import torch
    >>> adam = Entry("torch-adam", torch.optim.Adam, 1e-3, {"betas": (0.9, 0.99)})
    >>> adam.call(steps=100)
    'torch.optim.Adam(model.parameters(), lr=0.001, betas=(0.9, 0.99))'
    """

    name: str
    make: Callable[..., Optimizer]
    lr: float
    options: Mapping[str, Any] = field(default_factory=dict)
    schedule: Callable[[int], Any] | None = None
    schedule_name: str | None = None
    no_decay: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not NAME.allows(self.name):
            raise ArgumentError(
                f"Entry: name must consist of letters, digits, '-', '_' and '.', got {shown(self.name)}."
            )
        check(self.name, "lr", self.lr, ARGUMENTS["lr"])

    def arguments(self, steps: int) -> dict[str, Any]:
        """Return the keyword arguments of `make` for a run of `steps` steps."""
        scheduled = {} if self.schedule is None else {"schedule": self.schedule(steps)}
        return {"lr": self.lr, **self.options, **scheduled}

    def optimizer(self, params: Iterable[Any], steps: int) -> Optimizer:
        """Create an optimizer over `params` for a run of `steps` steps."""
        return self.make(params, **self.arguments(steps))

    def optimizer_of(self, model: nn.Module, steps: int) -> Optimizer:
        """Create an optimizer over the parameters of a model, in two groups if `no_decay` is given."""
        if not self.no_decay:
            return self.optimizer(model.parameters(), steps)
        return self.optimizer(param_groups(model, no_decay=self.no_decay, allow_tied=True), steps)

    def call(self, steps: int) -> str:
        """Return the expression that creates the optimizer over the parameters of `model`."""
        groups = f"dashpot.param_groups(model, no_decay={self.no_decay!r}, allow_tied=True)"
        params = groups if self.no_decay else "model.parameters()"
        arguments = "".join(f", {key}={value!r}" for key, value in self.arguments(steps).items())
        return f"{_expression(self.make)}({params}{arguments})"


def has_decay(optimizer: Optimizer) -> bool:
    """Return whether a parameter group of an optimizer has a weight decay other than zero."""
    return any(group.get("weight_decay") for group in optimizer.param_groups)


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
        name: Name of a method listed by `dashpot methods`, or `autosgm-K` for AutoSGM with numerator K from 0 to 4.
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
    if name not in known_entries():
        raise unknown("method", name, known_entries())
    if schedule is not None:
        _check_schedule(schedule)
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


def one_cycle(
    make: Callable[..., Optimizer], options: Mapping[str, Any], steps: int, **shape: Any
) -> dict[str, schedules.Schedule]:
    """Return the 1cycle schedules of a method, for the learning rate and, if the method has one, the momentum.

    The learning rate rises and falls. The momentum (`betas[0]` or `momentum` in the parameter groups) changes from 0.95
    to 0.85 and back, regardless of its configured value. Only the learning rate is scheduled if the momentum is 0, and
    for NAG, QHM, QHAdam and ESGD: their recipes derive other constants from the momentum and therefore do not support a
    momentum schedule. `shape` are options of `OneCycle`; those of the phases apply to the momentum too.

    Source: Smith and Topin, "Super-Convergence", 2018; the defaults of torch.optim.lr_scheduler.OneCycleLR.

    >>> import dashpot as dp
    >>> one_cycle(dp.AdamW, {}, steps=10)
    {'lr': OneCycle(steps=10, ...), 'betas[0]': OneCycleMomentum(steps=10, ...)}
    >>> list(one_cycle(dp.SGD, {}, steps=10))
    ['lr']
    """
    rate: dict[str, schedules.Schedule] = {"lr": schedules.from_name("1cycle", steps, **shape)}
    momentum = _momentum(make, options)
    if momentum is None:
        return rate
    phases = {name: value for name, value in shape.items() if name in ("pct_start", "anneal", "three_phase")}
    both = {**rate, momentum: OneCycleMomentum(steps, **phases)}
    return both if _supports(make, options, both) else rate


def _momentum(make: Callable[..., Optimizer], options: Mapping[str, Any]) -> str | None:
    """Return the key of a method's momentum in the parameter groups; None if the momentum is zero or missing."""
    [group] = make([torch.zeros(1, requires_grad=True)], lr=1.0, **options).param_groups
    name, value = ("betas[0]", group["betas"][0]) if "betas" in group else ("momentum", group.get("momentum", 0.0))
    return name if value else None


def _supports(make: Callable[..., Optimizer], options: Mapping[str, Any], both: Mapping[str, Any]) -> bool:
    """Return whether the method's recipe supports all schedules in `both`."""
    optimizer = make([torch.zeros(1, requires_grad=True)], lr=1.0, **options, schedule=both)
    try:
        optimizer.recipe  # pyright: ignore[reportAttributeAccessIssue]  # noqa: B018
    except ArgumentError:
        return False
    return True


def scheduled(
    name: str, make: Callable[..., Optimizer], options: Mapping[str, Any], schedule: str | None
) -> Callable[[int], Any] | None:
    """Return a function from the total number of steps to the argument `schedule` of `make`, or None."""
    if schedule is None:
        return None
    kind, given = schedules.split_name(schedule)
    momentum = _momentum(make, options) if kind in ("1cycle", "1cycle-momentum") else None
    if kind == "1cycle":
        if momentum is not None and len(one_cycle(make, options, 1)) == 1:
            warn(f"1cycle schedules only the learning rate of {name}, not its momentum.")
        return lambda steps: one_cycle(make, options, steps, **given)
    if kind == "1cycle-momentum":
        if momentum is None or not _supports(make, options, {momentum: OneCycleMomentum(1)}):
            raise ArgumentError(f"{name}: schedule must not be 1cycle-momentum, since the momentum is zero or fixed.")
        return lambda steps: {momentum: schedules.from_name(kind, steps, **given)}
    return lambda steps: schedules.from_name(kind, steps, **given)


def _check_schedule(text: str) -> None:
    kind, given = schedules.split_name(text)
    hold = given.get("hold", 1)
    # The number of steps is not known yet; a window requires at least two values.
    schedules.from_name(kind, 2 * hold if kind == "window" and isinstance(hold, int) and hold > 0 else 1, **given)


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


def _expression(make: Any) -> str:
    """Return an expression for the class or factory `make`."""
    if isinstance(make, partial):
        given = [repr(value) for value in make.args] + [f"{key}={value!r}" for key, value in make.keywords.items()]
        return f"functools.partial({', '.join([_expression(make.func), *given])})"
    if not hasattr(make, "__name__"):
        return f"{type(make).__module__}.{type(make).__name__}()"
    return f"{_origin(make)}.{make.__name__}"


def _origin(make: Callable[..., Optimizer]) -> str:
    """Return the package that re-exports `make`, or the module of `make` if no package does."""
    for package in ("dashpot", "torch.optim"):
        if getattr(sys.modules.get(package), make.__name__, None) is make:
            return package
    return make.__module__
