"""Schedules that move an optimizer's hyperparameters as a fit goes on: ours, torch's, and those that watch a metric."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from dashpot.constraints import POSITIVE, OneOf, Optional, check, unknown
from dashpot.errors import ArgumentError, RunError
from dashpot.schedules import OneCycle, OneCycleMomentum, Plateau, Scheduler, hyperparams
from dashpot.schedules import Schedule as ScheduleFunction
from dashpot.training.callback import Callback, CancelFit
from dashpot.training.callbacks.reduce_on_plateau import ReduceOnPlateau

if TYPE_CHECKING:
    from dashpot.training.learner import Learner

__all__ = ["Schedule", "one_cycle"]

SCHEDULER_KEYS = ("initial_", "max_", "min_", "base_")
"""How the keys begin that schedulers add to a group, to remember values by."""


class Schedule(Callback):
    """Moves hyperparameters of the optimizer, a step ahead after each step that was taken, or after each epoch.

    The first step uses the schedule's value at 0. Batches that only add to a gradient do not count, nor do steps that
    were skipped because gradients were not finite. What watches a metric looks at it once an epoch, after the
    evaluation; otherwise an epoch that `CancelEpoch` cut short counts as well. Once the fit is over the hyperparameters
    are again what they were before it, so that a second fit does not start from the end of the first.

    Args:
        schedule: one of

            * a `dashpot.schedules.Schedule`, for lr, or a mapping from names of hyperparameters ("lr", "momentum",
              "betas[1]", "weight_decay", ...) to these. They drive any torch optimizer;
            * a function that maps the total number of steps (with `per="epoch"`: of epochs) to one of these;
            * a function that maps the optimizer to a torch `LRScheduler`, such as `partial(StepLR, step_size=30)`. It
              may ask for the number of steps as well, with an argument `total_steps`;
            * a `dashpot.schedules.Plateau`, for lr, or a function that maps the optimizer to a `ReduceLROnPlateau`.
        per: "batch", for each step of the optimizer, or "epoch".
        metric: what a plateau is looked for in: "loss" or another mean of the evaluation, or of the training where
            there is no evaluation.

    Raises:
        ArgumentError: `schedule` is none of these, or of a hyperparameter that the optimizer lacks or schedules itself,
            or that another `Schedule` of the fit moves.
        RunError: a fit goes on from the state of another schedule, such as one of another number of steps, without
            `override`. With it this schedule is taken to where it would be by now.

    >>> from functools import partial
    >>> import torch
    >>> from dashpot import AdamW, tasks
    >>> from dashpot.schedules import Cosine
    >>> from dashpot.training import Engine, Learner
    >>> learner = Learner.of(tasks.get("digits").build(0), AdamW, lr=0.01, engine=Engine("cpu"))
    >>> learner.fit(1, callbacks=[Schedule(lambda steps: Cosine(steps))])
    >>> learner.fit(2, callbacks=[Schedule(partial(torch.optim.lr_scheduler.ExponentialLR, gamma=0.5), per="epoch")])
    """

    order: ClassVar[int] = 50

    def __init__(self, schedule: Any, per: str = "batch", metric: str = "loss") -> None:
        check("Schedule", "per", per, OneOf(("batch", "epoch")))
        if not isinstance(metric, str):
            raise ArgumentError(f"Schedule: metric must be the name of a mean, such as 'loss', got {metric!r}.")
        if isinstance(schedule, (LRScheduler, Optimizer)) or not (
            callable(schedule) or isinstance(schedule, (Mapping, Plateau))
        ):
            raise ArgumentError(
                "Schedule: schedule must be a dashpot Schedule, a mapping of names to Schedules, a Plateau, or a "
                f"function that makes one or a torch scheduler, got {schedule!r}."
            )
        self.schedule, self.per, self.metric = schedule, per, metric
        self.scheduler: Any = None
        self._initial_groups: _GroupSnapshot | None = None
        self._final_state: dict[str, Any] = {}
        self._scheduled: set[Any] = set()
        self._last_epoch = -1  # the last epoch that was taken in

    def before_fit(self, learner: Learner) -> None:
        self._learner, self._opt, self._final_state = learner, learner.opt, {}
        self._last_epoch = -1
        others = [other for other in learner.loop.callbacks if isinstance(other, Schedule) and other is not self]
        others = [other for other in others if other.scheduler is not None]  # those before this one
        # What the fit began with, not what a schedule before this one has made of it.
        self._initial_groups = others[0]._initial_groups if others else _GroupSnapshot(learner.opt)
        self._metric_values: list[float] = []
        self._build()
        self._initial_state = self.scheduler.state_dict()
        self._scheduled = _scheduled_hyperparams(self.scheduler, learner.opt)
        if self._needs_metric and self.metric not in ("loss", *learner.metrics):
            raise unknown("metric", self.metric, ["loss", *learner.metrics])
        if twice := [name for other in others for name in self._scheduled & other._scheduled]:
            raise ArgumentError(
                f"Schedule: {_format_location(twice[0])} is moved by two schedules; give it one of the two."
            )

    def after_step(self, learner: Learner) -> None:
        if self.per == "batch" and not self._needs_metric:
            self.scheduler.step()

    def after_epoch(self, learner: Learner) -> None:
        last = learner.loop.phases["train"] and not (learner.training and learner.loop.phases["eval"])
        if not last or self._last_epoch == learner.epoch:
            return
        self._last_epoch = learner.epoch
        if self._needs_metric:
            self._metric_values.append(_metric_value(learner, self.metric))
            self._step_scheduler(self._metric_values[-1])
        elif self.per == "epoch":
            self._step_scheduler()

    def cleanup_epoch(self, learner: Learner) -> None:
        """Move after an epoch that was cut short on purpose, not after one that fails; what watches has nothing new.

        Where a callback ends the fit after the epoch's last batch, before this one is told, the epoch counts in full.
        """
        if learner.loop.unwinding is None:
            counts = not self._needs_metric
        else:
            counts = issubclass(learner.loop.unwinding, CancelFit) and learner.loop.position == (learner.epoch + 1, 0)
        if counts:
            self.after_epoch(learner)

    def cleanup_fit(self, learner: Learner) -> None:
        self._final_state, self.scheduler = self.state_dict(), None
        if self._initial_groups is not None:
            self._initial_groups.restore()
            self._initial_groups = None

    def state_dict(self) -> dict[str, Any]:
        if self.scheduler is None:
            return self._final_state
        return {
            "settings": {"per": self.per, "metric": self.metric, "scheduler": self._initial_state},
            "scheduler": self.scheduler.state_dict(),
            "measured": list(self._metric_values),
            "groups": _GroupSnapshot(self._opt).values,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        there, here = state["settings"], {"per": self.per, "metric": self.metric, "scheduler": self._initial_state}
        unlike = _setting_differences(there, here)
        if not unlike:
            _GroupSnapshot(self._opt, state["groups"]).restore(self._scheduled)
            self.scheduler.load_state_dict(state["scheduler"])
            self._metric_values = list(state["measured"])
        elif self._learner.loop.override:
            self._fast_forward(state["measured"])
        else:
            raise RunError(
                f"The checkpoint is of a fit under another schedule: {'; '.join(unlike)}; override=True goes on under "
                "the one of here."
            )

    def _build(self) -> None:
        total = self._learner.epochs if self.per == "epoch" else self._learner.total_steps
        self.scheduler = _make_scheduler(self.schedule, self._opt, total)
        self._needs_metric = isinstance(self.scheduler, (ReduceLROnPlateau, ReduceOnPlateau))

    def _step_scheduler(self, *measured: float) -> None:
        with warnings.catch_warnings():
            # Where the steps before were all skipped, or taken in an earlier run, torch sees a mistake in the order.
            warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step", UserWarning)
            self.scheduler.step(*measured)

    def _fast_forward(self, measured: list[float]) -> None:
        """Bring a schedule that the fit did not begin with to where it would be if the fit had."""
        assert self._initial_groups is not None
        self._initial_groups.restore()
        self._build()
        if self._needs_metric:
            self._metric_values = list(measured)
            for value in measured:
                self._step_scheduler(value)
            return
        for _ in range(self._learner.loop.position[0] if self.per == "epoch" else self._learner.steps):
            self._step_scheduler()


def one_cycle(max_lr: float | None = None, **shape: Any) -> Schedule:
    """1cycle over the whole fit: the learning rate up to its peak and down again, the momentum down and up.

    The momentum is that of the groups, or the first of their betas; where they have neither, the rate alone moves.

    Args:
        max_lr: the peak, positive; None: each group's own learning rate.
        shape: `pct_start`, `anneal`, `three_phase` of `dashpot.schedules.OneCycle`, and its `div` and `final_div`;
            `high` and `low` of `OneCycleMomentum`.

    Raises:
        ArgumentError: an argument is out of range or unknown.

    >>> from dashpot import AdamW, tasks
    >>> from dashpot.training import Engine, Learner
    >>> learner = Learner.of(tasks.get("digits").build(0), AdamW, lr=0.01, engine=Engine("cpu"))
    >>> learner.fit(1, callbacks=[one_cycle(max_lr=0.05)])
    """
    check("one_cycle", "max_lr", max_lr, Optional(POSITIVE))
    both = {name: shape.pop(name) for name in ("pct_start", "anneal", "three_phase") if name in shape}
    rate = both | {name: shape.pop(name) for name in ("div", "final_div") if name in shape}
    momentum = both | {name: shape.pop(name) for name in ("high", "low") if name in shape}
    if shape:
        known = "pct_start, anneal, three_phase, div, final_div, high, low"
        raise ArgumentError(f"one_cycle: there is no argument {next(iter(shape))!r}; known are {known}.")
    for kind, settings in ((OneCycle, rate), (OneCycleMomentum, momentum)):
        kind(1, **settings)  # so that what is out of range is told now

    def build(opt: Optimizer, total_steps: int) -> Scheduler:
        for group in opt.param_groups if max_lr is not None else ():
            group["initial_lr"] = max_lr
        moved: dict[str, ScheduleFunction] = {"lr": OneCycle(total_steps, **rate)}
        if all("momentum" in group or "betas" in group for group in opt.param_groups):
            moved["momentum"] = OneCycleMomentum(total_steps, **momentum)
        return _scheduler_of(opt, moved)

    return Schedule(build)


# ---- making the scheduler -------------------------------------------------------------------------------------------


def _make_scheduler(schedule: Any, opt: Optimizer, total: int) -> Any:
    """The scheduler of a fit, with `step`, `state_dict` and `load_state_dict`."""
    made = schedule
    if not isinstance(made, (ScheduleFunction, Mapping, Plateau)):
        made = _call_factory(schedule, opt, total)
    if isinstance(made, LRScheduler):
        if made.optimizer is not opt:
            raise ArgumentError("Schedule: the function must make a scheduler of the optimizer it is given.")
        return made
    if isinstance(made, Plateau):
        return ReduceOnPlateau(opt, made)
    if isinstance(made, ScheduleFunction):
        made = {"lr": made}
    if isinstance(made, Mapping) and made and all(isinstance(item, ScheduleFunction) for item in made.values()):
        return _scheduler_of(opt, made)
    raise ArgumentError(f"Schedule: the function must make a schedule or a torch scheduler, it made {made!r}.")


def _scheduler_of(opt: Optimizer, schedules: Mapping[str, ScheduleFunction]) -> Scheduler:
    group = opt.param_groups[0]
    own = {hyperparams.locate(group, name) for name in getattr(opt, "schedule", {})}
    for name in schedules:
        if hyperparams.locate(group, name) in own:
            raise ArgumentError(f"Schedule: {name} has a schedule in the optimizer already; give it one of the two.")
    return Scheduler(opt, also=schedules)


def _call_factory(function: Callable[..., Any], opt: Optimizer, total: int) -> Any:
    """What a user's function makes of the optimizer, of the number of steps, or of both."""
    opened, needed = _open_arguments(function)
    if "total_steps" in opened and needed != ["total_steps"]:
        return function(opt, total_steps=total)
    if len(needed) == 2 and not isinstance(function, (type, partial)):
        return function(opt, total)
    if len(needed) > 1:
        raise ArgumentError(f"Schedule: {function!r} needs {', '.join(needed[1:])} besides the optimizer.")
    # Which of the two a function of one argument takes shows when it is called: a number makes no torch scheduler, and
    # an optimizer no schedule of ours.
    try:
        return function(total)
    except Exception as of_steps:
        try:
            return function(opt)
        except Exception as of_optimizer:
            raise ArgumentError(
                f"Schedule: the function fails for the number of steps ({of_steps}) and for the optimizer "
                f"({of_optimizer})."
            ) from of_optimizer


def _open_arguments(function: Callable[..., Any]) -> tuple[list[str], list[str]]:
    """The names of a function's arguments that are still open, and of those that it cannot do without."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return [], []
    named = [p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    open_ones = [p.name for p in named if p.default is p.empty or p.default is None]
    return open_ones, [p.name for p in named if p.default is p.empty]


def _scheduled_hyperparams(scheduler: Any, opt: Optimizer) -> set[tuple[str, int | None]]:
    """Where in a group the hyperparameters are that a scheduler moves."""
    group = opt.param_groups[0]
    names = list(scheduler.schedules) if isinstance(scheduler, Scheduler) else ["lr"]
    if getattr(scheduler, "cycle_momentum", False):  # torch's OneCycleLR and CyclicLR
        names.append("momentum")
    return {hyperparams.locate(group, name) for name in names}


def _format_location(place: tuple[str, int | None]) -> str:
    key, index = place
    return key if index is None else f"{key}[{index}]"


def _metric_value(learner: Learner, metric: str) -> float:
    return learner.history[learner.epoch][learner.loop.phase][metric]


def _setting_differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """What two schedules were made with, where it differs; numbers may be tensors."""
    found = []
    for name in {**there, **here}:
        a, b = there.get(name), here.get(name)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            found += _setting_differences(a, b)
        elif _text(a) != _text(b):
            found.append(f"{name} is {a} there and {b} here")
    return found


def _text(value: Any) -> str:
    """A text that is the same for equal values; numpy's numbers come back from a file as Python's."""
    if isinstance(value, (list, tuple)):
        return f"{type(value).__name__}({', '.join(map(_text, value))})"
    return repr(value.item() if isinstance(value, np.generic) else value)


# ---- the groups ------------------------------------------------------------------------------------------------------


class _GroupSnapshot:
    """The hyperparameters of an optimizer's groups, as they are now or as given, to be put back."""

    def __init__(self, opt: Optimizer, values: list[dict[str, Any]] | None = None) -> None:
        self.opt, self.wrapped = opt, "step" in vars(opt)
        self.values = [self._snapshot(group) for group in opt.param_groups] if values is None else values

    def _snapshot(self, group: dict[str, Any]) -> dict[str, Any]:
        # Counters, such as steps_done, are no hyperparameters: they are not among the defaults.
        names = [name for name in group if name in self.opt.defaults or name.startswith(SCHEDULER_KEYS)]
        return {name: value.clone() if isinstance(value := group[name], Tensor) else value for name in names}

    def restore(self, moves: Collection[tuple[str, int | None]] | None = None) -> None:
        """Put back all of them, or those that a scheduler moves, and what schedulers have written beside them."""
        for group, values in zip(self.opt.param_groups, self.values, strict=False):
            for name in [name for name in group if name.startswith(SCHEDULER_KEYS) and name not in values]:
                if name not in self.opt.defaults:
                    del group[name]
            for name, value in values.items():
                if moves is None or name not in self.opt.defaults or (name, None) in moves:
                    _assign(group, name, value)
                for index in [index for key, index in moves or () if key == name and index is not None]:
                    hyperparams.write(group, f"{name}[{index}]", value[index])
        if not self.wrapped:
            vars(self.opt).pop("step", None)  # torch's schedulers put a counting wrapper around it


def _assign(group: dict[str, Any], name: str, value: Any) -> None:
    if isinstance(held := group.get(name), Tensor):
        held.fill_(value)  # in place: a recorded graph reads this very tensor
    else:
        group[name] = value
