"""Hyperparameter schedules of a fit: dashpot schedules, torch schedulers, and schedules driven by a metric."""

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

from dashpot.constraints import POSITIVE, OneOf, Optional, check, shown, unknown
from dashpot.errors import ArgumentError, RunError
from dashpot.schedules import OneCycle, OneCycleMomentum, Plateau, Scheduler, hyperparams
from dashpot.schedules import Schedule as ScheduleFunction
from dashpot.training.callback import Callback, CancelFit
from dashpot.training.callbacks.reduce_on_plateau import ReduceOnPlateau
from dashpot.training.state.group_settings import SCHEDULER_KEYS, is_scheduler_key
from dashpot.utils.schema import COUNT, PLAIN, REAL, TEXT, Like, ListOf, MapOf, Maybe, Record, Row, Rule, require

if TYPE_CHECKING:
    from dashpot.training.learner import Learner


class Schedule(Callback):
    """Schedule of optimizer hyperparameters, advanced after each optimizer step or each epoch.

    In a fit with `steps` or `evaluate_every`, an epoch is an interval between two evaluations.

    The first step uses the schedule's value at 0. Micro-batches without an optimizer step and steps skipped because of
    non-finite gradients do not advance the schedule. Plateau schedules are advanced once per epoch, after the
    evaluation, unless `CancelEpoch` has ended the epoch; other schedules with `per="epoch"` also count such epochs. At
    the end of the fit, the initial hyperparameters are restored for the next fit.

    Args:
        schedule: One of

            * a `dashpot.schedules.Schedule` for lr, or a mapping from names of hyperparameters ("lr", "momentum",
              "betas[1]", "weight_decay", ...) to such schedules, for any torch optimizer;
            * a function from the total number of steps (or epochs, with `per="epoch"`) to such a schedule or mapping.
              The number of steps is unknown in a fit of `epochs` with data without a length, but not with `steps`;
            * a function from the optimizer to a torch `LRScheduler`, such as `partial(StepLR, step_size=30)`, with an
              optional argument `total_steps`;
            * a `dashpot.schedules.Plateau` for lr, or a function from the optimizer to a `ReduceLROnPlateau`.
        per: "batch" to advance the schedule after each optimizer step, or "epoch" to advance it after each epoch.
        metric: Metric of a plateau schedule, "loss" or the name of a metric. It is measured in the evaluation phase, or
            in the training phase of a fit without evaluation.

    Raises:
        ArgumentError: If `schedule` has an unsupported type, or if a hyperparameter does not exist or is already
            scheduled by the optimizer or by another `Schedule` of the fit.
        RunError: If a resumed checkpoint has a different schedule, such as one with a different number of steps, and
            `override` is False. With `override=True`, this schedule is advanced to the current step.

    Example:
        >>> from functools import partial
        >>> from torch.optim.lr_scheduler import ExponentialLR
        >>> from dashpot import AdamW, tasks
        >>> from dashpot.schedules import Cosine
        >>> from dashpot.training import Engine, Learner
        >>> learner = Learner.of(tasks.get("digits").build(0), AdamW, lr=0.01, engine=Engine("cpu"))
        >>> learner.fit(1, callbacks=[Schedule(lambda steps: Cosine(steps))])
        >>> learner.fit(2, callbacks=[Schedule(partial(ExponentialLR, gamma=0.5), per="epoch")])
    """

    order: ClassVar[int] = 50
    state_schema: ClassVar[Rule] = Record(
        {
            "settings": Record({"per": TEXT, "metric": TEXT, "scheduler": MapOf(PLAIN)}),
            "scheduler": MapOf(PLAIN),
            "measured": ListOf(REAL),
            "groups": ListOf(MapOf(PLAIN)),
        },
        optional={"scheduled": ListOf(Row((TEXT, Maybe(COUNT))))},
    )

    def __init__(self, schedule: Any, per: str = "batch", metric: str = "loss") -> None:
        check("Schedule", "per", per, OneOf(("batch", "epoch")))
        if not isinstance(metric, str):
            raise ArgumentError(f"Schedule: metric must be 'loss' or the name of a metric, got {shown(metric)}.")
        if isinstance(schedule, (LRScheduler, Optimizer)) or not (
            callable(schedule) or isinstance(schedule, (Mapping, Plateau))
        ):
            raise ArgumentError(
                "Schedule: schedule must be a dashpot Schedule, a mapping of names to Schedules, a Plateau, or a "
                f"factory of one of these or of a torch scheduler, got {shown(schedule)}."
            )
        self.schedule, self.per, self.metric = schedule, per, metric
        self.scheduler: Any = None
        self._initial_groups: _GroupSnapshot | None = None
        self._final_state: dict[str, Any] = {}
        self._scheduled: set[Any] = set()
        self._last_epoch = -1  # last counted epoch
        self._resumed = False  # whether the schedule is at the step of the fit

    def before_fit(self, learner: Learner) -> None:
        self._learner, self._opt, self._final_state = learner, learner.opt, {}
        self._last_epoch, self._resumed = -1, False
        others = [other for other in learner.loop.callbacks if isinstance(other, Schedule) and other is not self]
        others = [other for other in others if other.scheduler is not None]  # callbacks started before this one
        # Reuse the snapshot of the other schedules, which may already have changed the groups.
        self._initial_groups = others[0]._initial_groups if others else _GroupSnapshot(learner.opt)
        self._metric_values: list[float] = []
        self._build()
        self._initial_state = self.scheduler.state_dict()
        self._scheduled = _scheduled_hyperparams(self.scheduler, learner.opt)
        if self._needs_metric and self.metric not in ("loss", *learner.metrics):
            raise unknown("metric", self.metric, ["loss", *learner.metrics])
        if shared := [location for other in others for location in self._scheduled & other._scheduled]:
            key, index = shared[0]
            name = key if index is None else f"{key}[{index}]"
            raise ArgumentError(f"Schedule: {name} has two schedules; remove one of them.")

    def before_epoch(self, learner: Learner) -> None:
        """Advance to the current step if the fit has been resumed from a checkpoint without this schedule."""
        if not self._resumed and (learner.steps or learner.epoch):
            epochs = learner.history[: learner.loop.position[0]]
            phase = "eval" if learner.loop.phases["eval"] else "train"
            self._fast_forward([e[phase][self.metric] for e in epochs if self.metric in e.get(phase, {})])
        self._resumed = True

    def after_step(self, learner: Learner) -> None:
        if self.per == "batch" and not self._needs_metric:
            self.scheduler.step()

    def after_epoch(self, learner: Learner) -> None:
        last = learner.loop.phases["train"] and not (learner.training and learner.loop.phases["eval"])
        if not last or self._last_epoch == learner.epoch:
            return
        self._last_epoch = learner.epoch
        if self._needs_metric:
            self._metric_values.append(learner.history[learner.epoch][learner.loop.phase][self.metric])
            self._step_scheduler(self._metric_values[-1])
        elif self.per == "epoch":
            self._step_scheduler()

    def cleanup_epoch(self, learner: Learner) -> None:
        """Count a cancelled epoch, unless this is a plateau schedule; a failed epoch is never counted.

        If a callback ends the fit after the last batch of the epoch but before this callback's `after_epoch`, the epoch
        is counted.
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
            "settings": self._settings(),
            "scheduler": self.scheduler.state_dict(),
            "measured": list(self._metric_values),
            "groups": _GroupSnapshot(self._opt).values,
            "scheduled": sorted([key, index] for key, index in self._scheduled),
        }

    def check_state(self, state: Mapping[str, Any], path: str) -> None:
        super().check_state(state, path)
        if _setting_differences(state["settings"], self._settings()):
            return
        require(Like(self.scheduler.state_dict()), state["scheduler"], f"{path}.scheduler")
        require(Record({}, {"last_epoch": COUNT, "_step_count": COUNT}), state["scheduler"], f"{path}.scheduler")
        own = _GroupSnapshot(self._opt).values
        require(Row((PLAIN,) * len(own)), state["groups"], f"{path}.groups")
        for index, (group, saved) in enumerate(zip(own, state["groups"], strict=True)):
            require(Like(group), saved, f"{path}.groups[{index}]")

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._resumed = True
        differences = _setting_differences(state["settings"], self._settings())
        if not differences:
            _GroupSnapshot(self._opt, state["groups"]).restore(self._scheduled)
            try:
                self.scheduler.load_state_dict(state["scheduler"])
            except ArgumentError as error:
                raise RunError(f"The schedule of the checkpoint cannot be loaded: {error}") from error
            self._metric_values = list(state["measured"])
        elif self._learner.loop.override:
            self._fast_forward(state["measured"])
        else:
            raise RunError(
                f"The schedules of the checkpoint and of this fit differ: {'; '.join(differences)}; pass override=True "
                "to use the current schedule."
            )

    def _settings(self) -> dict[str, Any]:
        return {"per": self.per, "metric": self.metric, "scheduler": self._initial_state}

    def _build(self) -> None:
        learner = self._learner
        total = partial(getattr, learner, "epochs" if self.per == "epoch" else "total_steps")
        self.scheduler = _make_scheduler(self.schedule, self._opt, total)
        self._needs_metric = isinstance(self.scheduler, (ReduceLROnPlateau, ReduceOnPlateau))

    def _step_scheduler(self, *measured: float) -> None:
        with warnings.catch_warnings():
            # torch does not count optimizer steps that were skipped or taken before a resume.
            warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step", UserWarning)
            self.scheduler.step(*measured)

    def _fast_forward(self, measured: list[float]) -> None:
        """Advance a new schedule from its start to the current step."""
        assert self._initial_groups is not None
        self._initial_groups.restore(self._scheduled)
        self._build()
        if self._needs_metric:
            self._metric_values = list(measured)
            for value in measured:
                self._step_scheduler(value)
            return
        for _ in range(self._learner.loop.position[0] if self.per == "epoch" else self._learner.steps):
            self._step_scheduler()


def one_cycle(max_lr: float | None = None, **shape: Any) -> Schedule:
    """Return a 1cycle schedule over the whole fit: the learning rate rises and falls, the momentum falls and rises.

    The momentum is `momentum` or the first of `betas`; if the optimizer has neither, only the learning rate is
    scheduled.

    Args:
        max_lr: Maximum learning rate, positive; None uses the learning rate of each group.
        shape: Options `pct_start`, `anneal`, `three_phase`, `div` and `final_div` of `dashpot.schedules.OneCycle`, and
            `high` and `low` of `OneCycleMomentum`.

    Raises:
        ArgumentError: If an argument is out of range or unknown.

    Example:
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
        raise ArgumentError(f"one_cycle: unknown argument {next(iter(shape))!r}; known are {known}.")
    for kind, settings in ((OneCycle, rate), (OneCycleMomentum, momentum)):
        kind(1, **settings)  # checks the ranges

    def build(opt: Optimizer, total_steps: int) -> Scheduler:
        for group in opt.param_groups if max_lr is not None else ():
            group["initial_lr"] = max_lr
        schedules: dict[str, ScheduleFunction] = {"lr": OneCycle(total_steps, **rate)}
        if all("momentum" in group or "betas" in group for group in opt.param_groups):
            schedules["momentum"] = OneCycleMomentum(total_steps, **momentum)
        return _scheduler_of(opt, schedules)

    return Schedule(build)


# ---- scheduler construction -----------------------------------------------------------------------------------------


def _make_scheduler(schedule: Any, opt: Optimizer, total: Callable[[], int]) -> Any:
    """Return the scheduler of a fit, an object with `step`, `state_dict` and `load_state_dict`.

    `total` returns the number of steps or epochs, or raises an `ArgumentError` if it is unknown.
    """
    direct = isinstance(schedule, (ScheduleFunction, Mapping, Plateau))
    result = schedule if direct else _call_factory(schedule, opt, total)
    if isinstance(result, LRScheduler):
        if result.optimizer is not opt:
            raise ArgumentError("Schedule: the function must return a scheduler of the optimizer that is passed to it.")
        return result
    if isinstance(result, Plateau):
        return ReduceOnPlateau(opt, result)
    schedules = {"lr": result} if isinstance(result, ScheduleFunction) else result
    if (
        isinstance(schedules, Mapping)
        and schedules
        and all(isinstance(s, ScheduleFunction) for s in schedules.values())
    ):
        return _scheduler_of(opt, schedules)
    raise ArgumentError(f"Schedule: the function must return a schedule or a torch scheduler, got {shown(result)}.")


def _scheduler_of(opt: Optimizer, schedules: Mapping[str, ScheduleFunction]) -> Scheduler:
    group = opt.param_groups[0]
    own = {hyperparams.locate(group, name) for name in getattr(opt, "schedule", {})}
    for name in schedules:
        if hyperparams.locate(group, name) in own:
            raise ArgumentError(f"Schedule: {name} is already scheduled by the optimizer; remove one of the schedules.")
    return Scheduler(opt, also=schedules)


def _call_factory(function: Callable[..., Any], opt: Optimizer, total: Callable[[], int]) -> Any:
    """Call a user's function with the optimizer, the total number of steps, or both."""
    opened, needed = _open_arguments(function)
    if "total_steps" in opened and needed != ["total_steps"]:
        return function(opt, total_steps=total())
    if len(needed) == 2 and not isinstance(function, (type, partial)):
        return function(opt, total())
    if len(needed) > 1:
        raise ArgumentError(f"Schedule: {function!r} requires {', '.join(needed[1:])} in addition to the optimizer.")
    # With one argument of the wrong kind, the function raises: torch schedulers reject numbers, and dashpot's schedules
    # reject optimizers.
    try:
        steps = total()
    except ArgumentError as unknown_length:
        try:
            return function(opt)
        except Exception:
            raise unknown_length from None
    try:
        return function(steps)
    except Exception as of_steps:
        try:
            return function(opt)
        except Exception as of_optimizer:
            raise ArgumentError(
                f"Schedule: the function fails for the number of steps ({of_steps}) and for the optimizer "
                f"({of_optimizer})."
            ) from of_optimizer


def _open_arguments(function: Callable[..., Any]) -> tuple[list[str], list[str]]:
    """Return the names of the arguments whose default is None or missing, and the names of the required arguments."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return [], []
    named = [p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    open_ones = [p.name for p in named if p.default is p.empty or p.default is None]
    return open_ones, [p.name for p in named if p.default is p.empty]


def _scheduled_hyperparams(scheduler: Any, opt: Optimizer) -> set[tuple[str, int | None]]:
    """Return the locations of the scheduled hyperparameters in the first parameter group."""
    group = opt.param_groups[0]
    names = list(scheduler.schedules) if isinstance(scheduler, Scheduler) else ["lr"]
    if getattr(scheduler, "cycle_momentum", False):  # torch's OneCycleLR and CyclicLR
        names.append("momentum")
    return {hyperparams.locate(group, name) for name in names}


def _setting_differences(saved: Mapping[str, Any], current: Mapping[str, Any]) -> list[str]:
    """Return one phrase for each setting that differs between two schedules; values may be tensors."""
    found = []
    for name in {**saved, **current}:
        a, b = saved.get(name), current.get(name)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            found += _setting_differences(a, b)
        elif _canonical(a) != _canonical(b):
            found.append(f"{name}: saved {a}, current {b}")
    return found


def _canonical(value: Any) -> str:
    """Return a string that is the same for a numpy and an equal Python number; loaded files contain Python numbers."""
    if isinstance(value, (list, tuple)):
        return f"{type(value).__name__}({', '.join(map(_canonical, value))})"
    return repr(value.item() if isinstance(value, np.generic) else value)


# ---- parameter groups -----------------------------------------------------------------------------------------------


class _GroupSnapshot:
    """Snapshot of the hyperparameters in an optimizer's groups: `values`, or the current hyperparameters by default."""

    def __init__(self, opt: Optimizer, values: list[dict[str, Any]] | None = None) -> None:
        self.opt, self.wrapped = opt, "step" in vars(opt)
        self.values = [self._snapshot(group) for group in opt.param_groups] if values is None else values

    def _snapshot(self, group: dict[str, Any]) -> dict[str, Any]:
        # Counters such as `steps_done` are not hyperparameters; they are not in the defaults.
        names = [name for name in group if name in self.opt.defaults or name.startswith(SCHEDULER_KEYS)]
        return {name: value.clone() if isinstance(value := group[name], Tensor) else value for name in names}

    def restore(self, locations: Collection[tuple[str, int | None]] | None = None) -> None:
        """Restore all hyperparameters, or only those at `locations`, and remove keys that schedulers have added."""

        def is_added(name: str) -> bool:
            scheduler_key = name.startswith(SCHEDULER_KEYS) if locations is None else is_scheduler_key(name, locations)
            return scheduler_key and name not in self.opt.defaults

        for group, values in zip(self.opt.param_groups, self.values, strict=False):
            for name in [name for name in group if is_added(name) and name not in values]:
                del group[name]
            for name, value in values.items():
                if locations is None or is_added(name) or (name, None) in locations:
                    _assign(group, name, value)
                for index in [index for key, index in locations or () if key == name and index is not None]:
                    hyperparams.write(group, f"{name}[{index}]", value[index])
        if not self.wrapped:
            vars(self.opt).pop("step", None)  # the wrapper that torch's schedulers install to count steps


def _assign(group: dict[str, Any], name: str, value: Any) -> None:
    if isinstance(held := group.get(name), Tensor):
        held.fill_(value)  # in place, because captured CUDA graphs use this tensor
    else:
        group[name] = value
