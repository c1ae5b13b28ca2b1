"""The torch.optim.Optimizer subclass: parameter groups, closure, hooks, state. No maths here."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from dashpot.constraints import ARGUMENTS, FLAG, Interval, check, shown
from dashpot.engine.backend import Backend
from dashpot.engine.group_step import Step
from dashpot.engine.tensor_table import step_count
from dashpot.errors import ArgumentError
from dashpot.optimizers.capturable_step import CapturableStepper
from dashpot.optimizers.grad_check import StepDecision
from dashpot.optimizers.group_keys import check_keys, check_params
from dashpot.optimizers.initial_state import init_state, is_state_init_step
from dashpot.optimizers.options import (
    OPTION_NAMES,
    Options,
    ResolvedOptions,
    StepOptions,
    Unpack,
    check_option_names,
)
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
from dashpot.recipes.bind_schedules import bind_schedules, check_schedules
from dashpot.recipes.recipe import Recipe
from dashpot.schedules import Schedule, hyperparams
from dashpot.schedules.resolve import lr_in_force, schedules_by_name
from dashpot.stages import AdaptiveClip
from dashpot.utils.scalars import is_number, is_numeric, minimum, read, typed_key
from dashpot.utils.warn import warn

__all__ = ["Optimizer"]

# Groups keep every setting under the name that torch's schedulers write to.
_STORED_AS = {"pole": "momentum"}
_COUNTS = 2**53  # schedules compute with floats, which tell integers apart up to here
_ROUNDING = 1e-12  # of the highest rate: torch's recursive schedulers end a ramp to zero this close below it


class Optimizer(torch.optim.Optimizer):
    """Base of every dashpot optimizer: a method (a function from settings to a `Recipe`) run over parameter groups.

    Args:
        params: Parameters, parameter groups or (name, parameter) pairs, as for any torch optimizer. With names, state
            is matched by name on load.
        defaults: The settings of groups that do not have their own.
        schedule: A `Schedule` for lr or a mapping from setting names to schedules; a function of the optimizer's step
            count, so that resuming or rebuilding changes nothing. torch schedulers work as well, on the groups.
        options: How it runs: engine, clipping, precision; see `dashpot.Options`.

    Every group can have its own settings, also while training: they are read at each step. Raises `ArgumentError` for a
    bad setting, a sparse gradient, or a gradient of another dtype, device or shape, before anything is written.
    """

    preset: ClassVar[Callable[..., Recipe]]
    _OPTIONS: ClassVar[tuple[str, ...]] = OPTION_NAMES
    _FLAGS = ("maximize", "seed")  # what groups hold beside the settings of the method
    _FIXED: ClassVar[Mapping[str, Any]] = {}  # settings of torch's counterpart that the class decides
    _SAVED_COUNTERS = ("steps_done",)  # counters saved in the groups; a group passed in by the user starts without
    _GROUP_WORDS: ClassVar[tuple[str, ...]] = ()  # what a group may say in other words than those it is kept under
    _SHARED: ClassVar[tuple[str, ...]] = ()  # settings of which the first group's are in force
    _step_supports_amp_scaling = True  # GradScaler leaves gradients as they are, and its scale and findings to `step`

    def __init__(
        self,
        params: Any,
        defaults: dict[str, Any],
        **options: Unpack[Options],
    ) -> None:
        given: dict[str, Any] = dict(options)
        check_option_names(type(self).__name__, given, _constructor_arguments(type(self)))
        schedule = given.pop("schedule", None)
        defaults = {name: plain_data(value) for name, value in defaults.items()}
        for name in ("maximize", "differentiable"):
            defaults.setdefault(name, given.pop(name, False))
        self._options = ResolvedOptions.of(type(self).__name__, given)
        check_params(type(self).__name__, params)
        self._reset_caches()
        self._schedule = schedules_by_name(type(self).__name__, schedule)
        if self.options.rounding == "stochastic" or self.options.state_dtype is not None:
            defaults["seed"] = self.options.seed  # in the groups, so that it is saved and resuming draws the same
        if self.options.capturable:
            defaults["capturable"] = True
        self._check_settings(defaults)
        super().__init__(params, defaults)
        check_schedules(type(self).__name__, self._settings(self.param_groups[0]), self._schedule)

    # ---- settings ---------------------------------------------------------------------------------------------------

    @classmethod
    def recipe_for(cls, **settings: Any) -> Recipe:
        """The recipe of this method for given settings, without an optimizer; the rest are the method's defaults.

        >>> import dashpot as dp
        >>> dp.RMSprop.recipe_for(lr=0.01, momentum=0.9).stages[-1]
        Filter(pole=0.9, zero=0.0, gain=1.0, normalise='none', start='zero', slot='momentum_buffer')
        """
        return cls.preset(**{_STORED_AS.get(name, name): read(value, keep=True) for name, value in settings.items()})

    @property
    def options(self) -> ResolvedOptions:
        """The complete options; `set_options` changes those of clipping and `nonfinite`."""
        return self._options

    def set_options(self, **options: Unpack[StepOptions]) -> None:
        """Change options between steps: `max_norm`, `clip_value`, `adaptive_clip` and `nonfinite`.

        Args:
            options: New values, as in `dashpot.Options`. Options not named keep their values.

        Raises:
            ArgumentError: If a value is out of range, or an option does not exist or is fixed at construction. The
                optimizer is unchanged then.

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

    @property
    def recipe(self) -> Recipe:
        """The method of the first parameter group as a frozen value, schedules included.

        Raises `ArgumentError` for a schedule that a recipe cannot carry, because it moves other numbers by a formula:
        one of NAG's pole moves the zero and the gain as well.
        """
        return self._recipe_with_schedules(self.param_groups[0])

    @property
    def schedule(self) -> dict[str, Schedule]:
        """The schedules given at construction, by setting name."""
        return dict(self._schedule)

    def current_lr(self, group: int = 0) -> float:
        """The learning rate the next step of a parameter group will use: its lr times the schedule's factor.

        >>> import torch, dashpot as dp
        >>> dp.SGD([torch.zeros(1, requires_grad=True)], lr=0.5).current_lr()
        0.5
        """
        factor, lr = lr_in_force(self._schedule.get("lr"), self.param_groups[group]["lr"], self.steps_done())
        return float(lr) * factor

    def steps_done(self) -> int:
        """Steps taken so far that moved any parameter. Schedules are functions of it.

        The groups carry the count, so that it is saved and goes on while some parameters are frozen. In a checkpoint of
        torch's it is missing, and the largest count of any parameter stands in.
        """
        counts = [self._count(group, "steps_done") for group in self.param_groups if "steps_done" in group]
        states = (self.state[p] for group in self.param_groups for p in group["params"] if p in self.state)
        return max(counts) if counts else max(map(step_count, states), default=0)

    def _count(self, group: Mapping[str, Any], name: str, lowest: int = 0) -> int:
        """A count that a group carries."""
        count = group[name]
        if type(count) is not int or not lowest <= count < _COUNTS:
            count = read(count)
            check(type(self).__name__, f"{name} of a parameter group", count, Interval(lowest, _COUNTS, "left", True))
        return count

    def _settings(self, group: Mapping[str, Any]) -> dict[str, Any]:
        return self._read(group, _argument_names(type(self).preset))

    def _read(self, group: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
        """Settings of a group as numbers; as tensors where the step is differentiated."""
        keep = bool(self.defaults["differentiable"])
        return {name: read(group[name], keep) for name in names}

    def _build(self, settings: dict[str, Any]) -> Recipe:
        return type(self).preset(**settings)

    def _built(self, settings: dict[str, Any]) -> Recipe:
        """The recipe for settings, after the clip that the options ask for."""
        recipe, share = self._build(settings), self.options.adaptive_clip
        return recipe if share is None else Recipe(AdaptiveClip(share), *recipe.stages, lr=recipe.lr)

    def _recipe_of(self, group: Mapping[str, Any], settings: dict[str, Any] | None = None) -> Recipe:
        """The recipe for a group's present settings; checked and built once for each set of values beside lr."""
        settings = self._settings(group) if settings is None else settings
        lr, tensors = settings["lr"], _tensors(settings)
        if tensors:
            self._refuse_meta(tensors, group.get("params", ()))
        key = (self.options.adaptive_clip, *(typed_key(v) for name, v in settings.items() if name != "lr"))
        try:
            known = self._recipes.get(key)
        except TypeError:  # a value without a hash is no setting; the check below says which one
            known = None
        if known is None or tensors.keys() - {"lr"}:
            self._check_settings(settings)
            known = self._built(settings)
            if len(self._recipes) > max(64, 2 * len(self.param_groups)):  # a schedule makes a new recipe at every step
                self._recipes.clear()
            self._recipes[key] = known
        elif known.lr is not lr:
            self._check_settings({"lr": lr})
            known = self._recipes[key] = known.at_lr(lr)
        return known

    def _refuse_meta(self, tensors: Mapping[str, Tensor], params: Sequence[Tensor]) -> None:
        """A tensor on the meta device has no value, so that only parameters without values can use it."""
        for name, value in tensors.items():
            if value.device.type == "meta" and any(p.device.type != "meta" for p in params):
                raise ArgumentError(
                    f"{type(self).__name__}: {self._argument(name)} must have a value, got a tensor on the meta device."
                )

    def _recipe_with_schedules(self, group: Mapping[str, Any]) -> Recipe:
        return bind_schedules(type(self).__name__, self._built, self._settings(group), self._schedule)

    def _check_settings(self, settings: Mapping[str, Any]) -> None:
        owner = type(self).__name__
        for name, value in settings.items():
            if name in ARGUMENTS and not ARGUMENTS[name].allows(value):
                check(owner, self._argument(name), value, ARGUMENTS[name])
            if name in self._FIXED and value != self._FIXED[name]:
                raise ArgumentError(f"{owner}: {name} must be {self._FIXED[name]}, got {shown(value)}.")
            if name == "capturable":
                check(owner, name, value, FLAG)
                self._check_capturable(value)

    def _check_nonfinite(self, options: ResolvedOptions) -> None:
        if options.nonfinite == "raise":
            raise ArgumentError(
                f"{type(self).__name__}: nonfinite='raise' requires a host sync, which capturable=True excludes; "
                "use 'skip'."
            )

    def _check_capturable(self, capturable: bool) -> None:
        owner = type(self).__name__
        if capturable:
            self._check_nonfinite(self.options)
        others = {bool(group.get("capturable")) for group in getattr(self, "param_groups", ())}
        if others - {capturable}:
            raise ArgumentError(f"{owner}: capturable must be the same in all parameter groups, got {capturable}.")

    def _argument(self, name: str) -> str:
        """The name under which this class takes a setting: `pole` is kept in the groups as `momentum`."""
        taken = inspect.signature(type(self).__init__).parameters
        return next((given for given, kept in _STORED_AS.items() if kept == name and given in taken), name)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group with its own settings; nothing changes if one of them is bad.

        Args:
            param_group: A dict with `params` and any settings; `pole` may be written for `momentum`. Keys of your own
                are kept, unless they look like a misspelt setting; `extra` holds anything.
        """
        if not isinstance(param_group, dict):
            raise TypeError(f"param_group must be a dict, but got {type(param_group)}")
        check_params(type(self).__name__, param_group.get("params"))
        self._check_keys(param_group)
        group = {key: value for key, value in param_group.items() if key not in self._SAVED_COUNTERS}
        group |= plain_data({key: value for key, value in group.items() if key != "params"})
        group = {**self._FIXED, **group}
        if "pole" in group and {"momentum", "betas"} & self.defaults.keys():
            betas = {"betas": group.get("betas", self.defaults["betas"])} if "betas" in self.defaults else {}
            target: dict[str, Any] = {"momentum": None, **betas} if "momentum" in self.defaults else betas
            hyperparams.write(target, "pole", group.pop("pole"))
            group |= target
        checked = {*self.defaults, *self._FLAGS, *self._FIXED, "capturable"}
        settings = {**self.defaults, **{key: value for key, value in group.items() if key in checked}}
        self._check_settings(settings)
        self._check_shared(group)
        for text in self._recipe_of(settings).warnings():
            warn(text)
        super().add_param_group(group)
        try:
            self._check_members(self.param_groups[-1])
        except ArgumentError:
            self.param_groups.pop()
            raise

    def _check_members(self, group: Mapping[str, Any]) -> None:
        """Refuse parameters that cannot be stepped, or not with these settings."""
        for p in group["params"]:
            if not (p.is_floating_point() or p.is_complex()):
                raise ArgumentError(f"{type(self).__name__}: parameters must be real or complex floats, got {p.dtype}.")
        self._refuse_meta(_tensors(self._settings(group)), group["params"])

    def _check_keys(self, group: Mapping[str, Any]) -> None:
        """Refuse keys that this class would ignore."""
        alias = ("pole",) if {"momentum", "betas"} & self.defaults.keys() else ()
        readable = (*self.defaults, *alias, *self._GROUP_WORDS, *self._SAVED_COUNTERS)
        check_keys(type(self).__name__, group, readable, (*_constructor_arguments(type(self)), *self._OPTIONS))

    def _check_shared(self, group: Mapping[str, Any]) -> None:
        """Refuse values in one group that count for all."""
        agreed = {"differentiable": self.defaults["differentiable"]}
        if self.param_groups:
            agreed |= {name: self.param_groups[0][name] for name in self._SHARED if name in self.param_groups[0]}
        for name, value in agreed.items():
            if name in group and group[name] != value:
                raise ArgumentError(
                    f"{type(self).__name__}: {name} must be the same in all parameter groups, {shown(value)}, "
                    f"got {shown(group[name])}."
                )

    # ---- step -------------------------------------------------------------------------------------------------------

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step; parameters without a gradient stay as they are.

        Args:
            closure: A function that clears the gradients, computes the loss, calls backward and returns the loss; it is
                called with gradients enabled and its value is returned.
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
        """torch's wrapper of `step`, taken only where a hook or a profiler is there to see it."""
        return hook_step_if_needed(func)

    def _step(self) -> None:
        if self._is_state_init_step():
            init_state(self)
            return
        with torch.set_grad_enabled(bool(self.defaults["differentiable"])):
            capturable = self.param_groups[0].get("capturable", False)
            check(type(self).__name__, "capturable", capturable, FLAG)
            stepper = self._capturable_stepper if capturable else self._stepper
            self._decision = stepper.take(self, self.steps_done())

    def _is_state_init_step(self) -> bool:
        """True for the step by which torch.distributed.checkpoint has the state made; see `engine.initial`."""
        return is_state_init_step(self)

    def _has_products(self) -> bool:
        """Whether a step has something to learn from Hessian-vector products."""
        return False

    def _observe_products(self, step: Step) -> None:
        """Learn from products; called before a step that is taken writes anything else."""

    def _reset_caches(self) -> None:
        """Drop what was looked up about tensors and kernels; the next step looks again."""
        # A user's torch.compile stops before the step and goes on after it. Importing dashpot need not import Dynamo.
        self._untraced: Any = torch.compiler.disable(type(self)._step)
        self._recipes: dict[Any, Recipe] = {}
        self._stepper, self._capturable_stepper = Stepper(), CapturableStepper()
        self._backend = Backend(self.options.engine)
        self._decision: StepDecision | None = None

    def _resolve_group(self, group: Mapping[str, Any], done: int) -> tuple[Recipe, Any, Any]:
        """(recipe, factor on lr, share of the highest rate) of a group for the step after `done` steps."""
        settings = self._settings(group)
        for name, schedule in self._schedule.items():
            if name != "lr":
                hyperparams.write(settings, name, schedule.value(hyperparams.read(settings, name), done))
        factor, settings["lr"] = lr_in_force(self._schedule.get("lr"), settings["lr"], done)
        highest = read(group.get("max_lr", group.get("initial_lr", 0.0)))
        if type(highest) is not float:
            check(type(self).__name__, "max_lr" if "max_lr" in group else "initial_lr", highest, Interval())
        if is_number(settings["lr"]) and is_number(highest) and -_ROUNDING * highest < settings["lr"] < 0:
            settings["lr"] = 0.0
        recipe = self._recipe_of(group, settings)
        unmoved = is_number(highest) and highest == 0
        moved = 1.0 if unmoved else minimum(settings["lr"] / highest, 1.0)
        return recipe, factor, factor * moved

    def _maximizes(self, group: Mapping[str, Any]) -> bool:
        maximize = group["maximize"]
        if type(maximize) is not bool:
            check(type(self).__name__, "maximize", maximize, FLAG)
        return maximize

    def _check_gradient(self, p: Tensor) -> None:
        differentiable = bool(self.defaults["differentiable"])
        check_gradient(type(self).__name__, p, self.state.get(p, {}), differentiable=differentiable)

    def _scaler(self) -> tuple[Any, Any]:
        """What `torch.amp.GradScaler` left for this step: (loss scale, whether it found an infinity)."""
        return getattr(self, "grad_scale", None), getattr(self, "found_inf", None)

    @property
    def last_step(self) -> str | None:
        """What became of the last step: "applied", "clipped" or "skipped"; None before the first."""
        return None if self._decision is None else self._decision.outcome()

    @property
    def last_grad_norm(self) -> Tensor | None:
        """The norm of all gradients before clipping at the last step, a 0-d tensor; None where nobody asked for it.

        It is measured where `max_norm` is given or `nonfinite` is not "allow". Reading its value makes a GPU wait;
        having it does not.
        """
        return None if self._decision is None else self._decision.norm

    # ---- state and text ---------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """torch's `state_dict` in tensors and plain Python values: numpy numbers, say of a scheduler, are converted.

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
            state_dict: As returned by `state_dict()`. Where both sides have parameter names, state is matched by name,
                else by position; the names may differ by a prefix that all of one side share and by torch's wrappers.
                Groups by name take the settings of the group their parameters were saved in. State keeps the dtype it
                was saved in.

        Raises `ArgumentError` before anything changes where names, shapes, slots, counts or settings do not fit, as
        those of another method do not.
        """
        if isinstance(state_dict, Mapping):
            state_dict = dict(state_dict)
        check_form(type(self).__name__, state_dict)
        # Tensors made in inference mode could not be written at a step outside it.
        with torch.inference_mode(False), checked_load(self, self._accept):
            super().load_state_dict(state_dict)
        for group in self.param_groups:
            if group.get("capturable"):  # read now, not when a step must not wait for a device
                group.setdefault("steps_done", self.steps_done())

    def _accept(self, saved: Mapping[str, Any], own: Mapping[str, Any]) -> AcceptedGroup:
        """A saved group as the group `own` takes it over; refuses a group of another method."""
        owner = type(self).__name__
        saved = normalize_group(owner, saved, own, self._SAVED_COUNTERS)
        numbers = [name for name, value in self._settings(self.defaults).items() if is_numeric(value)]
        lacking = [name for name in numbers if name not in saved]
        if lacking:
            raise ArgumentError(
                f"{owner}: a saved group must have {', '.join(lacking)}, got one of a different method."
            )
        check_known_settings(owner, saved, own)
        if "capturable" in saved:  # how the saved one ran is of no concern
            saved["capturable"] = own.get("capturable", False)
        settings = {**self.defaults, **saved, "params": own["params"]}
        settings.pop("capturable", None)
        self._check_settings(settings)
        recipe, possible = self._recipe_of(settings), self._possible_slots()
        return AcceptedGroup(saved, lambda p: possible.with_needed(self.options.storage(p.dtype).slots(recipe)))

    def _possible_slots(self) -> Slots:
        """The state that the method has in any settings."""
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


def _size(group: Mapping[str, Any]) -> str:
    """How many tensors and elements a group has, and whether it ascends."""
    params = group["params"]
    lazy = sum(map(is_lazy, params))
    count = sum(p.numel() for p in params if not is_lazy(p))
    parts = [f"{len(params)} tensors", f"{count} elements"]
    parts += [f"{lazy} uninitialized"] if lazy else []
    return ", ".join([*parts, "maximize=True"] if group.get("maximize") else parts)


def _tensors(settings: Mapping[str, Any]) -> dict[str, Tensor]:
    """The settings that are tensors, or pairs with one."""
    found: dict[str, Tensor] = {}
    for name, value in settings.items():
        for item in value if isinstance(value, (tuple, list)) else (value,):
            if isinstance(item, Tensor):
                found[name] = item
    return found


@cache
def _constructor_arguments(cls: type[Optimizer]) -> tuple[str, ...]:
    """Names of the explicit arguments after `params`."""
    taken = inspect.signature(cls.__init__).parameters.values()
    return tuple(item.name for item in taken if item.kind in (item.POSITIONAL_OR_KEYWORD, item.KEYWORD_ONLY))[2:]


@cache
def _argument_names(function: Callable[..., Any]) -> tuple[str, ...]:
    return tuple(inspect.signature(function).parameters)
