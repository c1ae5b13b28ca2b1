"""The base class of all optimizers, with options, closures, hooks and state, but without any maths."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy
from typing_extensions import Unpack

from dashpot.constraints import FLAG, Interval, check
from dashpot.engine.backend import Backend
from dashpot.engine.group_step import Step
from dashpot.engine.tensor_table import step_count
from dashpot.errors import ArgumentError
from dashpot.optimizers.capturable_step import CapturableStepper
from dashpot.optimizers.grad_check import StepDecision
from dashpot.optimizers.group_keys import check_params
from dashpot.optimizers.group_settings import STORED_AS, GroupSettings, constructor_arguments
from dashpot.optimizers.initial_state import init_state, is_state_init_step
from dashpot.optimizers.options import Options, ResolvedOptions, StepOptions, check_option_names
from dashpot.optimizers.param_check import check_gradient
from dashpot.optimizers.state_dict import (
    AcceptedGroup,
    Slots,
    check_form,
    check_known_settings,
    checked_load,
    normalize_group,
    plain_data,
    slots_of,
)
from dashpot.optimizers.step import Stepper
from dashpot.optimizers.step_wrapper import hook_step_if_needed, is_dynamo_tracing
from dashpot.recipes.bind_schedules import check_schedules
from dashpot.recipes.recipe import Recipe
from dashpot.schedules import Schedule
from dashpot.schedules.resolve import lr_in_force, schedules_by_name
from dashpot.utils.scalars import is_numeric, read

_MAX_COUNT = 2**53  # schedules compute with floats, which represent integers up to this exactly


class Optimizer(GroupSettings):
    """Base class of all dashpot optimizers, which applies a method to parameter groups.

    A method is a function from settings to a `Recipe`. Settings are read from the groups at every step, so the settings
    can differ between groups and can change during training.

    Args:
        params: Parameters, parameter groups or (name, parameter) pairs, as in torch. If names are given, state is
            matched by name when it is loaded.
        defaults: Settings for groups that do not specify their own.
        options: Options common to all optimizers, see `dashpot.Options`.

    Raises:
        ArgumentError: If a setting or option is invalid. `step` raises this error, before anything is written, if a
            gradient is sparse or differs from its parameter in dtype, device or shape.
    """

    _step_supports_amp_scaling = True  # GradScaler passes its scale to `step` instead of unscaling gradients

    def __init__(
        self,
        params: Any,
        defaults: dict[str, Any],
        **options: Unpack[Options],
    ) -> None:
        given: dict[str, Any] = dict(options)
        check_option_names(type(self).__name__, given, constructor_arguments(type(self)))
        schedule = given.pop("schedule", None)
        defaults = {name: plain_data(value) for name, value in defaults.items()}
        for name in ("maximize", "differentiable"):
            defaults.setdefault(name, given.pop(name, False))
        self._options = ResolvedOptions.of(type(self).__name__, given)
        check_params(type(self).__name__, params)
        self._reset_caches()
        self._schedule = schedules_by_name(type(self).__name__, schedule)
        if self.options.rounding == "stochastic" or self.options.state_dtype is not None:
            defaults["seed"] = self.options.seed  # saved with the groups, so that a resumed run rounds identically
        if self.options.capturable:
            defaults["capturable"] = True
        self._check_settings(defaults)
        super().__init__(params, defaults)
        check_schedules(type(self).__name__, self._settings(self.param_groups[0]), self._schedule)

    # ---- settings ---------------------------------------------------------------------------------------------------

    @classmethod
    def recipe_for(cls, **settings: Any) -> Recipe:
        """Return the recipe of this method without creating an optimizer. Omitted settings have default values.

        >>> import dashpot as dp
        >>> dp.RMSprop.recipe_for(lr=0.01, momentum=0.9).stages[-1]
        Filter(pole=0.9, zero=0.0, gain=1.0, normalise='none', start='zero', slot='momentum_buffer')
        """
        return cls.preset(**{STORED_AS.get(name, name): read(value, keep=True) for name, value in settings.items()})

    @property
    def options(self) -> ResolvedOptions:
        """The resolved options. `set_options` can change the clipping options and `nonfinite`."""
        return self._options

    def set_options(self, **options: Unpack[StepOptions]) -> None:
        """Change the options `max_norm`, `clip_value`, `adaptive_clip` and `nonfinite` between steps.

        Args:
            options: New values, see `dashpot.Options`. Omitted options keep their values.

        Raises:
            ArgumentError: If a value is out of range, or if an option does not exist or cannot be changed after
                construction. The optimizer is then unchanged.

        Example:
            >>> import torch, dashpot as dp
            >>> opt = dp.SGD([torch.zeros(1, requires_grad=True)], max_norm=1.0)
            >>> opt.set_options(max_norm=0.5, nonfinite="skip")
            >>> opt.options.max_norm
            0.5
        """
        owner, settable = type(self).__name__, StepOptions.__annotations__
        for name in options:
            if name not in settable:
                raise ArgumentError(f"{owner}: set_options must be given {', '.join(settable)}, got {name}.")
        new = ResolvedOptions.of(owner, {**self._options._asdict(), **options})
        if any(group.get("capturable") for group in self.param_groups):
            self._check_nonfinite(new)
        self._options = new
        self._plans.clear()  # recipes depend on `adaptive_clip`

    @property
    def recipe(self) -> Recipe:
        """The recipe of the first parameter group, including its schedules.

        Raises:
            ArgumentError: If a recipe cannot represent a schedule because other settings are derived from the scheduled
                setting, as NAG derives its zero and gain from its pole.
        """
        return self._recipe_with_schedules(self.param_groups[0])

    @property
    def schedule(self) -> dict[str, Schedule]:
        """The schedules given at construction, by setting name."""
        return dict(self._schedule)

    def current_lr(self, group: int = 0) -> float:
        """Return the learning rate of a parameter group in the next step, including its schedule.

        >>> import torch, dashpot as dp
        >>> dp.SGD([torch.zeros(1, requires_grad=True)], lr=0.5).current_lr()
        0.5
        """
        factor, lr = lr_in_force(self._schedule.get("lr"), self.param_groups[group]["lr"], self.steps_done())
        return float(lr) * factor

    def steps_done(self) -> int:
        """Return the number of steps that updated any parameter. Schedules are functions of this count.

        The groups store the count, so that it is saved and keeps increasing while some parameters are frozen.
        Checkpoints of torch do not contain the count, so the largest step count of any parameter is used instead.
        """
        counts = [self._count(group, "steps_done") for group in self.param_groups if "steps_done" in group]
        states = (self.state[p] for group in self.param_groups for p in group["params"] if p in self.state)
        return max(counts) if counts else max(map(step_count, states), default=0)

    def _count(self, group: Mapping[str, Any], name: str, lowest: int = 0) -> int:
        """Return a counter stored in a group, after checking its value."""
        count = group[name]
        if type(count) is not int or not lowest <= count < _MAX_COUNT:
            count = read(count)
            check(
                type(self).__name__, f"{name} of a parameter group", count, Interval(lowest, _MAX_COUNT, "left", True)
            )
        return count

    # ---- step -------------------------------------------------------------------------------------------------------

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step. Parameters without a gradient are not updated.

        Args:
            closure: Function that clears the gradients, computes the loss, calls backward and returns the loss.
                Gradients are enabled while the closure runs. `step` returns the value of the closure.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if is_dynamo_tracing():
            self._untraced(self)
        else:
            self._step()
        return loss

    @staticmethod
    def profile_hook_step(func: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap `step` as torch does, but call the wrapper only if a hook or a profiler is active."""
        return hook_step_if_needed(func)

    def _step(self) -> None:
        if self._is_state_init_step():
            init_state(self)
            return
        with torch.set_grad_enabled(bool(self.defaults["differentiable"])):
            capturable = self.param_groups[0].get("capturable", False)
            check(type(self).__name__, "capturable", capturable, FLAG)
            for group in self.param_groups if capturable else ():
                self._check_capturable(bool(group.get("capturable")))
            stepper = self._capturable_stepper if capturable else self._stepper
            self._decision = stepper.take(self, self.steps_done())

    def _is_state_init_step(self) -> bool:
        """Check whether torch.distributed.checkpoint calls this step to create the state, see `initial_state.py`."""
        return is_state_init_step(self)

    def _has_products(self) -> bool:
        return False

    def _observe_products(self, step: Step) -> None:
        pass

    def _reset_caches(self) -> None:
        super()._reset_caches()
        # A graph of `torch.compile` breaks before the step and resumes after it. This call does not import Dynamo.
        self._untraced: Any = torch.compiler.disable(type(self)._step)
        self._stepper, self._capturable_stepper = Stepper(), CapturableStepper()
        self._backend = Backend(self.options.engine)
        self._decision: StepDecision | None = None

    def _check_gradient(self, p: Tensor) -> None:
        differentiable = bool(self.defaults["differentiable"])
        check_gradient(type(self).__name__, p, self.state.get(p, {}), differentiable=differentiable)

    def _scaler(self) -> tuple[Any, Any]:
        return getattr(self, "grad_scale", None), getattr(self, "found_inf", None)

    @property
    def last_step(self) -> str | None:
        """The outcome of the last step: "applied", "clipped" or "skipped", or None before the first step."""
        return None if self._decision is None else self._decision.outcome()

    @property
    def last_grad_norm(self) -> Tensor | None:
        """The norm of all gradients at the last step, before clipping, as a 0-d tensor, or None if it was not measured.

        The norm is measured if `max_norm` is given or `nonfinite` is not "allow". Measuring it does not require a host
        sync.
        """
        return None if self._decision is None else self._decision.norm

    # ---- state and text ---------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return the state as tensors and plain Python values. NumPy scalars, which schedulers may set, are converted.

        >>> import numpy as np, torch, dashpot as dp
        >>> opt = dp.SGD([torch.zeros(1, requires_grad=True)], lr=0.5)
        >>> opt.param_groups[0]["lr"] = np.float64(0.25)
        >>> opt.state_dict()["param_groups"][0]["lr"]
        0.25
        """
        return plain_data(super().state_dict())

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Load state that this class or its torch counterpart saved.

        Args:
            state_dict: The result of `state_dict()`. State is matched by parameter name if both sides have names, and
                by position otherwise. Names may differ by a common prefix and by the prefixes of torch's wrappers. A
                group with names takes its settings from the saved group that contains its parameters. State keeps the
                dtype in which it was saved.

        Raises:
            ArgumentError: If names, shapes, slots, counts or settings do not match, for example because the method
                differs. The optimizer is then unchanged.
        """
        if isinstance(state_dict, Mapping):
            state_dict = dict(state_dict)
        check_form(type(self).__name__, state_dict)
        # A step outside inference mode cannot write to tensors that were created in inference mode.
        with torch.inference_mode(False), checked_load(self, self._accept):
            super().load_state_dict(state_dict)
        for group in self.param_groups:
            if group.get("capturable"):  # read now, because a step must not cause a host sync
                group.setdefault("steps_done", self.steps_done())

    def _accept(self, saved: Mapping[str, Any], own: Mapping[str, Any]) -> AcceptedGroup:
        """Convert a saved group for loading into the group `own`. Reject a group saved by a different method."""
        owner = type(self).__name__
        saved = normalize_group(owner, saved, own, self._SAVED_COUNTERS)
        numbers = [name for name, value in self._settings(self.defaults).items() if is_numeric(value)]
        lacking = [name for name in numbers if name not in saved]
        if lacking:
            raise ArgumentError(
                f"{owner}: a saved group must have {', '.join(lacking)}, got one of a different method."
            )
        check_known_settings(owner, saved, own)
        if "capturable" in saved:  # `capturable` is not a property of the method
            saved["capturable"] = own.get("capturable", False)
        settings = {**self.defaults, **saved, "params": own["params"]}
        settings.pop("capturable", None)
        self._check_settings(settings)
        recipe, possible = self._recipe_of(settings), self._possible_slots()
        return AcceptedGroup(saved, lambda p: possible.with_needed(self.options.storage(p.dtype).slots(recipe)))

    def _possible_slots(self) -> Slots:
        """Return the slots that the method can have under any settings."""
        return slots_of(self._built, self._settings(self.defaults))

    def __getstate__(self) -> dict[str, Any]:
        kept = {"_schedule": self._schedule, "_options": self._options}
        return {**super().__getstate__(), **kept}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._reset_caches()
        for group in self.param_groups:
            for name, value in {**self.defaults, **self._FIXED}.items():
                group.setdefault(name, value)

    def __repr__(self) -> str:
        options = self.options.text()
        lines = [f"{type(self).__name__}("] if not options else [f"{type(self).__name__}(", f"  {options}"]
        for index, group in enumerate(self.param_groups):
            lines.append(f"  group {index}: {_size(group)}")
            try:
                lines.append(f"    {self._recipe_with_schedules(group)!r}")
            except ArgumentError:
                lines += [f"    {self._recipe_of(group)!r}", f"    schedule={self._schedule!r}"]
        return "\n".join([*lines, ")"])

    def _repr_html_(self) -> str:
        """Return the recipe and the groups for notebooks."""
        from dashpot.optimizers.notebook import optimizer_html

        return optimizer_html(self)


def _size(group: Mapping[str, Any]) -> str:
    """Return a text with the number of tensors and elements in a group, and with `maximize=True` if this is set."""
    params = group["params"]
    lazy = sum(map(is_lazy, params))
    count = sum(p.numel() for p in params if not is_lazy(p))
    parts = [f"{len(params)} tensors", f"{count} elements"]
    parts += [f"{lazy} uninitialized"] if lazy else []
    return ", ".join([*parts, "maximize=True"] if group.get("maximize") else parts)
