"""Schedules driving the hyperparameters of an optimizer, under the interface of a torch scheduler."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from dashpot.constraints import Interval, check, shown
from dashpot.errors import ArgumentError
from dashpot.schedules.hyperparams import locate, read, write
from dashpot.schedules.schedule import Schedule

__all__ = ["Scheduler"]

NUMBER = Interval()
LAST_EPOCH = Interval(-1, math.inf, "left", integer=True)


class Scheduler(LRScheduler):
    """Sets hyperparameters of every parameter group from schedules; call `step()` after each `optimizer.step()`.

    Works with any torch optimizer. At the n-th step (n = 0, 1, ...) a hyperparameter is `schedule.value(base, n)`,
    `base` being its value when the first scheduler was built. Each group remembers it under "initial_lr",
    "initial_momentum", "initial_betas[0]" and so on, as torch does for the rate, so building again never compounds and
    groups added later join in. A hyperparameter held as a tensor is written in place.

    Args:
        Arguments: Optimizer: any `torch.optim.Optimizer`. lr, momentum, weight_decay, zero, eps: a schedule, or None to
            leave the hyperparameter alone. `momentum` (or `pole`) is the momentum where the groups have one and the
            first of `betas` where they have these. also: schedules of hyperparameters whose names are no identifiers,
            such as {"betas[1]": schedule}. last_epoch: -1 at the start of a run; n - 1 goes on after n steps, once the
            optimizer's own state is loaded. others: schedules of any other hyperparameter of the groups, by name.

    Two ways to resume: load the optimizer's state and build with `last_epoch`, or build and `load_state_dict`. Unlike
    torch's schedulers this one leaves `optimizer.step` as it is and gives no warning about the order of calls.

    Raises `ArgumentError` for something that is no optimizer or no schedule, for a hyperparameter that a group lacks,
    that is no number or is named twice, and for a `last_epoch` without remembered values.

    >>> import torch
    >>> from dashpot.schedules import OneCycle, OneCycleMomentum
    >>> optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(2))], lr=0.01)
    >>> scheduler = Scheduler(optimizer, lr=OneCycle(steps=10), momentum=OneCycleMomentum(steps=10))
    >>> for _ in range(2):
    ...     optimizer.step()
    ...     scheduler.step()
    >>> [round(lr, 6) for lr in scheduler.get_last_lr()], optimizer.param_groups[0]["betas"]
    ([0.01], (0.85, 0.999))
    """

    def __init__(
        self,
        optimizer: Optimizer,
        *,
        lr: Schedule | None = None,
        momentum: Schedule | None = None,
        weight_decay: Schedule | None = None,
        zero: Schedule | None = None,
        eps: Schedule | None = None,
        also: Mapping[str, Schedule] | None = None,
        last_epoch: int = -1,
        **others: Schedule | None,
    ) -> None:
        # LRScheduler.__init__ would replace optimizer.step by a wrapper and knows of lr only; nothing of it is needed.
        if not isinstance(optimizer, Optimizer):
            raise ArgumentError(f"Scheduler: optimizer must be a torch.optim.Optimizer, got {shown(optimizer)}.")
        check("Scheduler", "last_epoch", last_epoch, LAST_EPOCH)
        named = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "zero": zero, "eps": eps, **others}
        self.optimizer = optimizer
        self.schedules = _schedules(named, also or {})
        self.last_epoch = last_epoch
        self._step_count = 0
        for index, group in enumerate(optimizer.param_groups):
            self._check_group(group, f"parameter group {index}", resuming=last_epoch >= 0)
        self._initial_step()

    def step(self, epoch: int | None = None) -> None:
        """Move on by one step, or to step `epoch`, and write the values in force there."""
        self._step_count += 1
        self._update_lr(epoch)

    def get_lr(self) -> list[Any]:
        """The learning rate of each group at `last_epoch`."""
        groups = self.optimizer.param_groups
        if "lr" not in self.schedules:
            return [_copy(group["lr"]) for group in groups]
        return [self.schedules["lr"].value(_base(group, "lr"), self.last_epoch) for group in groups]

    def state_dict(self) -> dict[str, Any]:
        """Plain data: the step, the schedules and the base values of each group; loads with `weights_only=True`."""
        return {
            "last_epoch": self.last_epoch,
            "schedules": {name: schedule.to_dict() for name, schedule in self.schedules.items()},
            "bases": [{name: _base(group, name) for name in self.schedules} for group in self.optimizer.param_groups],
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken: the values in force there are written to the optimizer at once.

        Raises `ArgumentError`, before anything is changed, if it belongs to other schedules or another number of
        groups. To go on under other schedules build with `last_epoch` instead.
        """
        missing = {"last_epoch", "schedules", "bases"} - set(state_dict)
        if missing:
            raise ArgumentError(f"Scheduler: the state lacks {', '.join(sorted(missing))}; it is no Scheduler's state.")
        self._check_schedules(state_dict["schedules"])
        groups, bases = self.optimizer.param_groups, state_dict["bases"]
        if len(bases) != len(groups):
            raise ArgumentError(f"Scheduler: the state has {len(bases)} parameter groups, the optimizer {len(groups)}.")
        for group, values in zip(groups, bases, strict=True):
            for name, base in values.items():
                group[_memory(group, name)] = base
        self._update_lr(state_dict["last_epoch"])

    # torch's SequentialLR moves the schedulers it holds through this method of LRScheduler.
    def _update_lr(self, epoch: int | None = None) -> None:
        self.last_epoch = self.last_epoch + 1 if epoch is None else epoch
        groups = self.optimizer.param_groups
        for name, schedule in self.schedules.items():
            for group in groups:
                _set(group, name, schedule.value(_base(group, name), self.last_epoch))
        self.base_lrs = [_base(group, "lr") if "lr" in self.schedules else _copy(group["lr"]) for group in groups]
        self._last_lr = [_copy(group["lr"]) for group in groups]

    def _check_group(self, group: dict[str, Any], owner: str, resuming: bool) -> None:
        seen: dict[str, str] = {}
        for name in self.schedules:
            check("Scheduler", f"{name} of {owner}", read(group, name), NUMBER)
            key = _memory(group, name)
            if key in seen:
                raise ArgumentError(f"Scheduler: {seen[key]} and {name} are the same hyperparameter of {owner}.")
            if resuming and key not in group:
                raise ArgumentError(
                    f"Scheduler: last_epoch={self.last_epoch} goes on with a run, but {owner} has no {key!r}; "
                    "load the optimizer's state first."
                )
            seen[key] = name

    def _check_schedules(self, saved: Mapping[str, Any]) -> None:
        own = {name: schedule.to_dict() for name, schedule in self.schedules.items()}
        for name in sorted(own.keys() | saved.keys()):
            if own.get(name) != saved.get(name):
                raise ArgumentError(
                    f"Scheduler: the state has {saved.get(name)} for {name}, this scheduler {own.get(name)}; "
                    "to go on under another schedule build with last_epoch instead."
                )


def _schedules(named: Mapping[str, Any], also: Mapping[str, Any]) -> dict[str, Schedule]:
    """The schedules that are there, by hyperparameter."""
    given = {name: schedule for name, schedule in named.items() if schedule is not None}
    for name in given.keys() & also.keys():
        raise ArgumentError(f"Scheduler: {name} is given twice, once of them in also.")
    given.update(also)
    for name, schedule in given.items():
        if not isinstance(schedule, Schedule):
            raise ArgumentError(f"Scheduler: {name} must be a dashpot.schedules.Schedule, got {shown(schedule)}.")
    return given


def _memory(group: Mapping[str, Any], name: str) -> str:
    """The key under which a group remembers the base value of a hyperparameter; the same for all its names."""
    key, index = locate(group, name)
    return f"initial_{key}" if index is None else f"initial_{key}[{index}]"


def _base(group: dict[str, Any], name: str) -> float:
    """The base value, remembered the first time it is asked for. A torch scheduler may have left a tensor there."""
    key = _memory(group, name)
    if key not in group:
        group[key] = float(read(group, name))
    return float(group[key])


def _set(group: dict[str, Any], name: str, value: float) -> None:
    current = read(group, name)
    if isinstance(current, Tensor):
        current.fill_(value)
    else:
        write(group, name, value)


def _copy(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value
