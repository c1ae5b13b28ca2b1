"""Parameter groups: validation of their settings, and resolution of the settings to the recipe of a step."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from dashpot.constraints import ARGUMENTS, FLAG, Interval, check, shown
from dashpot.engine.group_step import GroupPlan
from dashpot.engine.native.kernel import active_stages, structure
from dashpot.errors import ArgumentError
from dashpot.optimizers.group_keys import check_keys, check_params
from dashpot.optimizers.options import OPTION_NAMES, ResolvedOptions
from dashpot.optimizers.state_dict import plain_data
from dashpot.recipes.bind_schedules import bind_schedules
from dashpot.recipes.recipe import Recipe
from dashpot.schedules import Schedule, hyperparams
from dashpot.schedules.resolve import lr_in_force
from dashpot.stages import AdaptiveClip
from dashpot.utils.scalars import is_immutable, is_number, minimum, read, typed_key
from dashpot.utils.warn import warn

STORED_AS = {"pole": "momentum"}
"""Arguments that groups store under the key to which torch's schedulers write."""

_LR_TOLERANCE = 1e-12  # relative to the peak lr; torch's recursive schedulers may end a ramp this far below zero


class _CachedPlan(NamedTuple):
    """A plan and the values of the group on which it depends. `values` is None if the plan must not be reused."""

    names: tuple[str, ...]
    values: list[Any] | None
    plan: GroupPlan


class GroupSettings(torch.optim.Optimizer):
    """Parameter groups whose settings define a recipe; the base class of `Optimizer`."""

    preset: ClassVar[Callable[..., Recipe]]
    _OPTIONS: ClassVar[tuple[str, ...]] = OPTION_NAMES
    _FLAGS = ("maximize", "seed")  # entries of a group that are not settings of the method
    _FIXED: ClassVar[Mapping[str, Any]] = {}  # settings of the torch counterpart that the class fixes
    _SAVED_COUNTERS = ("steps_done",)  # counters saved in the groups, removed from groups that the user passes
    _GROUP_WORDS: ClassVar[tuple[str, ...]] = ()  # alternative keys, which are converted when a group is added
    _SHARED: ClassVar[tuple[str, ...]] = ()  # settings whose value in the first group applies to all groups
    _options: ResolvedOptions
    _schedule: Mapping[str, Schedule]

    def _reset_caches(self) -> None:
        """Clear all caches of settings, tensors and kernels."""
        self._recipes: dict[Any, Recipe] = {}
        self._plans: dict[int, _CachedPlan] = {}

    # ---- from settings to a recipe ----------------------------------------------------------------------------------

    def _plan_group(self, index: int, done: int) -> GroupPlan:
        """Resolve the settings of a group for the step after `done` steps.

        The plan of the last step is reused as long as the group contains the same objects and none of these objects is
        mutable.
        """
        group, last = self.param_groups[index], self._plans.get(index)
        if last and last.values is not None and all(map(operator.is_, last.values, map(group.get, last.names))):
            return last.plan
        self._check_settings({name: group[name] for name in self._FLAGS if name in group})
        settings = self._settings(group)
        names = (*settings, *self._FLAGS, "max_lr", "initial_lr")
        recipe, factor, window = self._resolve(group, settings, done)
        if last and last.plan.recipe.stages is recipe.stages:
            key = last.plan.structure, last.plan.active
        else:
            key = structure(recipe), active_stages(recipe)
        values = [group.get(name) for name in names]
        is_reusable = not self._schedule and all(map(is_immutable, values))
        plan = GroupPlan(recipe, factor, window, self._maximizes(group), *key)
        self._plans[index] = _CachedPlan(names, values if is_reusable else None, plan)
        return plan

    def _resolve(self, group: Mapping[str, Any], settings: dict[str, Any], done: int) -> tuple[Recipe, Any, Any]:
        """Apply the schedules to `settings`, and return (recipe, factor, window); see `Clock` for the last two."""
        for name, schedule in self._schedule.items():
            if name != "lr":
                hyperparams.write(settings, name, schedule.value(hyperparams.read(settings, name), done))
        factor, settings["lr"] = lr_in_force(self._schedule.get("lr"), settings["lr"], done)
        peak = read(group.get("max_lr", group.get("initial_lr", 0.0)))
        if type(peak) is not float:
            check(type(self).__name__, "max_lr" if "max_lr" in group else "initial_lr", peak, Interval())
        if is_number(settings["lr"]) and is_number(peak) and -_LR_TOLERANCE * peak < settings["lr"] < 0:
            settings["lr"] = 0.0
        recipe = self._recipe_of(group, settings)
        has_no_peak = is_number(peak) and peak == 0
        relative = 1.0 if has_no_peak else minimum(settings["lr"] / peak, 1.0)
        return recipe, factor, factor * relative

    def _recipe_of(self, group: Mapping[str, Any], settings: dict[str, Any] | None = None) -> Recipe:
        """Return the recipe for the settings of a group. Recipes are cached by all settings except lr."""
        settings = self._settings(group) if settings is None else settings
        lr, tensors = settings["lr"], tensor_settings(settings)
        if tensors:
            self._refuse_meta(tensors, group.get("params", ()))
        key = (self._options.adaptive_clip, *(typed_key(v) for name, v in settings.items() if name != "lr"))
        try:
            known = self._recipes.get(key)
        except TypeError:  # an unhashable value; the check below raises an error that names the setting
            known = None
        if known is None or tensors.keys() - {"lr"}:
            self._check_settings(settings)
            known = self._built(settings)
            if len(self._recipes) > max(64, 2 * len(self.param_groups)):  # a schedule creates a recipe at every step
                self._recipes.clear()
            self._recipes[key] = known
        elif known.lr is not lr:
            self._check_settings({"lr": lr})
            known = self._recipes[key] = known.at_lr(lr)
        return known

    def _settings(self, group: Mapping[str, Any]) -> dict[str, Any]:
        """Return those entries of a group that are settings of the method."""
        return self._read(group, _argument_names(type(self).preset))

    def _read(self, group: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
        """Return the named settings of a group as numbers, or as tensors if the step is differentiable."""
        keep = bool(self.defaults["differentiable"])
        return {name: read(group[name], keep) for name in names}

    def _build(self, settings: dict[str, Any]) -> Recipe:
        return type(self).preset(**settings)

    def _built(self, settings: dict[str, Any]) -> Recipe:
        """Return the recipe for `settings`, with the clipping that the options define."""
        recipe, share = self._build(settings), self._options.adaptive_clip
        return recipe if share is None else Recipe(AdaptiveClip(share), *recipe.stages, lr=recipe.lr)

    def _recipe_with_schedules(self, group: Mapping[str, Any]) -> Recipe:
        """Return the recipe of a group, including its schedules."""
        return bind_schedules(type(self).__name__, self._built, self._settings(group), self._schedule)

    def _maximizes(self, group: Mapping[str, Any]) -> bool:
        maximize = group["maximize"]
        if type(maximize) is not bool:
            check(type(self).__name__, "maximize", maximize, FLAG)
        return maximize

    # ---- checks -----------------------------------------------------------------------------------------------------

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
        if capturable:
            self._check_nonfinite(self._options)
        others = {bool(group.get("capturable")) for group in getattr(self, "param_groups", ())}
        if others - {capturable}:
            raise ArgumentError(
                f"{type(self).__name__}: capturable must be the same in all parameter groups, got {capturable}."
            )

    def _refuse_meta(self, tensors: Mapping[str, Tensor], params: Sequence[Tensor]) -> None:
        """Reject settings on the meta device, which have no value, unless all parameters are on it too."""
        for name, value in tensors.items():
            if value.device.type == "meta" and any(p.device.type != "meta" for p in params):
                raise ArgumentError(
                    f"{type(self).__name__}: {self._argument(name)} must have a value, got a tensor on the meta device."
                )

    def _argument(self, name: str) -> str:
        """Return the name of the constructor argument for a setting. Some classes use `pole` for `momentum`."""
        taken = inspect.signature(type(self).__init__).parameters
        return next((given for given, kept in STORED_AS.items() if kept == name and given in taken), name)

    # ---- adding a group ---------------------------------------------------------------------------------------------

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a parameter group. Its settings may differ from those of other groups.

        Args:
            param_group: A dict with the key `params` and any settings; `pole` is accepted in place of `momentum`. Other
                keys are kept, but a key that resembles a setting is an error. `extra` may be a dict with arbitrary
                contents.

        Raises:
            ArgumentError: If a key, setting or parameter is invalid. The optimizer is then unchanged.
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
        for p in group["params"]:
            if not (p.is_floating_point() or p.is_complex()):
                raise ArgumentError(f"{type(self).__name__}: parameters must be real or complex floats, got {p.dtype}.")
        self._refuse_meta(tensor_settings(self._settings(group)), group["params"])

    def _check_keys(self, group: Mapping[str, Any]) -> None:
        """Reject keys that resemble settings but would be ignored."""
        alias = ("pole",) if {"momentum", "betas"} & self.defaults.keys() else ()
        readable = (*self.defaults, *alias, *self._GROUP_WORDS, *self._SAVED_COUNTERS)
        check_keys(type(self).__name__, group, readable, (*constructor_arguments(type(self)), *self._OPTIONS))

    def _check_shared(self, group: Mapping[str, Any]) -> None:
        """Reject a group if a setting that must be equal in all groups differs from its value in the other groups."""
        agreed = {"differentiable": self.defaults["differentiable"]}
        if self.param_groups:
            agreed |= {name: self.param_groups[0][name] for name in self._SHARED if name in self.param_groups[0]}
        for name, value in agreed.items():
            if name in group and group[name] != value:
                raise ArgumentError(
                    f"{type(self).__name__}: {name} must be the same in all parameter groups, {shown(value)}, "
                    f"got {shown(group[name])}."
                )


def tensor_settings(settings: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return all settings that are tensors or pairs that contain a tensor."""
    found: dict[str, Tensor] = {}
    for name, value in settings.items():
        for item in value if isinstance(value, (tuple, list)) else (value,):
            if isinstance(item, Tensor):
                found[name] = item
    return found


@cache
def constructor_arguments(cls: type[GroupSettings]) -> tuple[str, ...]:
    """Return the names of the constructor's explicit arguments after `params`."""
    taken = inspect.signature(cls.__init__).parameters.values()
    return tuple(item.name for item in taken if item.kind in (item.POSITIONAL_OR_KEYWORD, item.KEYWORD_ONLY))[2:]


@cache
def _argument_names(function: Callable[..., Any]) -> tuple[str, ...]:
    return tuple(inspect.signature(function).parameters)
