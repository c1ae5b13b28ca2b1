"""Schedules of entries, by name, for optimizers of dashpot and others."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch.optim import Optimizer

from dashpot import schedules
from dashpot.errors import ArgumentError
from dashpot.runs.makers import is_dashpot
from dashpot.runs.probe import probe
from dashpot.schedules import OneCycleMomentum, Scheduler
from dashpot.utils.warn import warn


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
    """Return the name of a method's momentum in schedules; None if the momentum is zero or missing."""
    made = probe(make, options)
    group = {} if made is None else made.param_groups[0]
    name, value = ("betas[0]", group["betas"][0]) if "betas" in group else ("momentum", group.get("momentum", 0.0))
    return None if not value else name if is_dashpot(make) else "momentum"  # betas[0] is not in groups of every part


def _supports(make: Callable[..., Optimizer], options: Mapping[str, Any], both: Mapping[str, Any]) -> bool:
    """Return whether the method's recipe, or every parameter group, supports all schedules in `both`."""
    try:
        if is_dashpot(make):
            probe(make, options, schedule=both).recipe  # pyright: ignore[reportOptionalMemberAccess, reportAttributeAccessIssue]  # noqa: B018
        else:
            Scheduler(probe(make, options), also=both)  # pyright: ignore[reportArgumentType]
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


def check_schedule(text: str) -> None:
    """Check the name and the options of a schedule."""
    kind, given = schedules.split_name(text)
    hold = given.get("hold", 1)
    # The number of steps is not known yet; a window requires at least two values.
    schedules.from_name(kind, 2 * hold if kind == "window" and isinstance(hold, int) and hold > 0 else 1, **given)
