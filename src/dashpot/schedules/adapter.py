"""A scheduler with torch's interface that applies schedules to the hyperparameters of an optimizer."""

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

NUMBER = Interval()
LAST_EPOCH = Interval(-1, math.inf, "left", integer=True)


class Scheduler(LRScheduler):
    """Set hyperparameters of every parameter group from schedules; call `step()` after each `optimizer.step()`.

    Works with any torch optimizer. At step n = 0, 1, ... a hyperparameter is `schedule.value(base, n)`, where `base` is
    the value of the hyperparameter when the first scheduler was created. As in torch, each group stores base values
    under "initial_lr", "initial_momentum", "initial_betas[0]" and so on. The factors of successive schedulers therefore
    do not compound. Parameter groups added later are scheduled as well. Tensor hyperparameters are written in place.

    Args:
        optimizer: Any `torch.optim.Optimizer`.
        lr: Schedule of the learning rate, or None to leave it unchanged. None has the same meaning for all following
            schedules.
        momentum: Schedule of the momentum, or of the first entry of `betas` in groups without momentum. The argument
            may also be named `pole`.
        weight_decay: Schedule of the weight decay.
        zero: Schedule of the filter's zero.
        eps: Schedule of eps.
        also: Schedules of hyperparameters whose names are not identifiers, such as {"betas[1]": schedule}.
        last_epoch: -1 for a new run. To resume after n steps, load the optimizer state first and pass n - 1.
        others: Schedules of other hyperparameters of the groups, by name.

    To resume a run, load the optimizer state and then either pass `last_epoch` or call `load_state_dict` of the
    scheduler. Unlike torch's schedulers, this class does not wrap `optimizer.step` and does not warn if `step()` is
    called in the wrong order.

    Raises:
        ArgumentError: If `optimizer` is not an optimizer or a schedule is not a `Schedule`; if a hyperparameter is
            missing from a group, is not a number, or is named twice; or if `last_epoch` >= 0 and a group does not
            store the base values.

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
        # LRScheduler.__init__ is not called: it wraps optimizer.step and handles lr only.
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
        """Advance by one step, or to step `epoch`, and write the new values to the groups."""
        self._step_count += 1
        self._update_lr(epoch)

    def get_lr(self) -> list[Any]:
        """Return the learning rate of each group at `last_epoch`."""
        groups = self.optimizer.param_groups
        if "lr" not in self.schedules:
            return [_copy(group["lr"]) for group in groups]
        return [self.schedules["lr"].value(_base(group, "lr"), self.last_epoch) for group in groups]

    def state_dict(self) -> dict[str, Any]:
        """Return the step, the schedules and the base values as plain data, loadable with `weights_only=True`."""
        return {
            "last_epoch": self.last_epoch,
            "schedules": {name: schedule.to_dict() for name, schedule in self.schedules.items()},
            "bases": [{name: _base(group, name) for name in self.schedules} for group in self.optimizer.param_groups],
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state and write the corresponding values to the optimizer.

        To resume with different schedules, pass `last_epoch` to the constructor instead.

        Raises:
            ArgumentError: If the schedules or the number of groups differ from the saved ones. The scheduler and the
                optimizer are then unchanged.
        """
        missing = {"last_epoch", "schedules", "bases"} - set(state_dict)
        if missing:
            raise ArgumentError(
                f"Scheduler: state_dict lacks {', '.join(sorted(missing))}; it is not the state of a Scheduler."
            )
        self._check_schedules(state_dict["schedules"])
        groups, bases = self.optimizer.param_groups, state_dict["bases"]
        if len(bases) != len(groups):
            raise ArgumentError(
                f"Scheduler: state_dict has {len(bases)} parameter groups, the optimizer has {len(groups)}."
            )
        for group, values in zip(groups, bases, strict=True):
            for name, base in values.items():
                group[_base_key(group, name)] = base
        self._update_lr(state_dict["last_epoch"])

    # torch's SequentialLR calls this method on its schedulers.
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
            key = _base_key(group, name)
            if key in seen:
                raise ArgumentError(f"Scheduler: {seen[key]} and {name} are the same hyperparameter of {owner}.")
            if resuming and key not in group:
                raise ArgumentError(
                    f"Scheduler: last_epoch={self.last_epoch} resumes a run, but {owner} has no {key!r}; "
                    "load the optimizer's state first."
                )
            seen[key] = name

    def _check_schedules(self, saved: Mapping[str, Any]) -> None:
        own = {name: schedule.to_dict() for name, schedule in self.schedules.items()}
        for name in sorted(own.keys() | saved.keys()):
            if own.get(name) != saved.get(name):
                raise ArgumentError(
                    f"Scheduler: {name} has schedule {saved.get(name)} in state_dict, but {own.get(name)} "
                    "in this scheduler; to resume with a different schedule, pass last_epoch instead."
                )


def _schedules(named: Mapping[str, Any], also: Mapping[str, Any]) -> dict[str, Schedule]:
    """Return a mapping from hyperparameter names to the schedules that are not None."""
    given = {name: schedule for name, schedule in named.items() if schedule is not None}
    for name in given.keys() & also.keys():
        raise ArgumentError(f"Scheduler: {name} is given twice, as an argument and in the mapping also.")
    given.update(also)
    for name, schedule in given.items():
        if not isinstance(schedule, Schedule):
            raise ArgumentError(f"Scheduler: {name} must be a dashpot.schedules.Schedule, got {shown(schedule)}.")
    return given


def _base_key(group: Mapping[str, Any], name: str) -> str:
    """Return the group key that stores the base value of a hyperparameter; all aliases have the same key."""
    key, index = locate(group, name)
    return f"initial_{key}" if index is None else f"initial_{key}[{index}]"


def _base(group: dict[str, Any], name: str) -> float:
    """Return the base value as a float, and store it on first access; a torch scheduler may have stored a tensor."""
    key = _base_key(group, name)
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
