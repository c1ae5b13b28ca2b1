"""SGM, the general optimizer, which runs any sequence of stages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from typing_extensions import Unpack

from dashpot.constraints import Scalar, shown
from dashpot.curvature.hvp_options import ProbingOptions
from dashpot.errors import ArgumentError
from dashpot.optimizers.options import Options
from dashpot.optimizers.second_order_base import SecondOrder
from dashpot.recipes.recipe import Recipe
from dashpot.stages.base import Stage
from dashpot.utils.scalars import is_number

_STAGE_ARGUMENTS = ("filter", "rate", "decay", "robust")
_CHECKED = ("lr", "maximize", "differentiable", "capturable", "seed", "update_d_every", "d_warmup")
_RESERVED = {*_CHECKED, "params", "param_names", "initial_lr", "max_lr", "probe_seed", *SecondOrder._SAVED_COUNTERS}


class SGMOptions(Options, ProbingOptions, total=False):
    """Keyword arguments of `SGM` other than lr and the stages."""


class SGM(SecondOrder):
    """The general optimizer, which runs any stages in the canonical order.

        g -> coupled decay -> filter -> denominator -> change-level decay -> robust clip -> numerator
          -> decoupled decay -> w

    The parameter groups contain every numeric setting of the stages under its name (`zero`, `eps`, `beta`, ...). Only
    the pole has a different key, torch's key `momentum`. Thus groups can have different values, and schedulers can
    change them.

    Args:
        params: Parameters, parameter groups or (name, parameter) pairs.
        lr: Learning rate, >= 0.
        filter: Stage or sequence of stages for filtering the gradient (`dashpot.Filter`, ...), or None.
        rate: Stage or sequence of stages for the denominator and numerator (`dashpot.SecondMoment`, ...), or None.
        decay: Stage or sequence of stages for weight decay (`dashpot.DecoupledDecay`, ...), or None.
        robust: Stage or sequence of stages for robust clipping (`dashpot.HuberClip`, ...), or None. The division of
            stages into four arguments has no effect, because all stages are sorted into the canonical order.
            `SGM.from_recipe` keeps the given order.
        options: Options common to all optimizers, see `dashpot.Options`. If a stage uses Hessian-vector products, as
            `dashpot.Curvature` does, the options of `dashpot.curvature.ProbingOptions` (`update_d_every`, `probe`, ...)
            are accepted as well.

    Raises:
        ArgumentError: If a value is outside its range, or if an argument for stages contains an object that is not a
            stage.

    Example:
        >>> import torch, dashpot as dp
        >>> w = torch.ones(2, requires_grad=True)
        >>> dp.SGM([w], lr=0.1, decay=dp.DecoupledDecay(0.01), filter=dp.Filter(0.9, zero=0.5)).recipe
        Recipe(Filter(pole=0.9, zero=0.5), DecoupledDecay(weight_decay=0.01), lr=0.1)
    """

    def __init__(
        self,
        params: Any,
        lr: Scalar = 1e-2,
        *,
        filter: Stage | Sequence[Stage] | None = None,
        rate: Stage | Sequence[Stage] | None = None,
        decay: Stage | Sequence[Stage] | None = None,
        robust: Stage | Sequence[Stage] | None = None,
        **options: Unpack[SGMOptions],
    ) -> None:
        arguments = {"filter": filter, "rate": rate, "decay": decay, "robust": robust}
        stages = [stage for name, given in arguments.items() for stage in _as_stages(name, given)]
        self._initialize(params, Recipe(*sorted(stages, key=lambda stage: stage.position), lr=lr), options)

    @classmethod
    def from_recipe(cls, params: Any, recipe: Recipe, **options: Unpack[SGMOptions]) -> SGM:
        """Create an optimizer from a recipe. The order of stages, lr and schedules are those of the recipe.

        Args:
            params: Parameters, parameter groups or (name, parameter) pairs.
            recipe: The recipe of the method.
            options: The options of `SGM`. `schedule` replaces the schedules of the recipe.

        Raises:
            ArgumentError: If `recipe` is not a `Recipe`, or if an option is out of range.

        Example:
            >>> import torch, dashpot as dp
            >>> w = torch.ones(2, requires_grad=True)
            >>> dp.SGM.from_recipe([w], dp.AdamW.recipe_for(lr=0.1)).current_lr()
            0.1
        """
        if not isinstance(recipe, Recipe):
            raise ArgumentError(f"SGM: recipe must be a Recipe, got {shown(recipe)}.")
        optimizer = cls.__new__(cls)
        optimizer._initialize(params, recipe, {"schedule": dict(recipe.schedule), **options})
        return optimizer

    def _initialize(self, params: Any, recipe: Recipe, options: SGMOptions) -> None:
        self._template = recipe.with_settings(schedule=None)
        names = self._template.settings()
        for name in names.keys() & _RESERVED:
            raise ArgumentError(f"SGM: a stage must not have a setting {name!r}, a reserved key of parameter groups.")
        # The pole is stored under torch's key, to which schedulers write, unless another setting is called `momentum`.
        self._keys = {name: "momentum" if name == "pole" and "momentum" not in names else name for name in names}
        settings = {"lr": recipe.lr, **{self._keys[name]: value for name, value in recipe.settings().items()}}
        probing = {name: options.pop(name) for name in ProbingOptions.__annotations__ if name in options}
        if probing and not self._observes():
            name = next(iter(probing))
            raise ArgumentError(f"SGM: {name} requires a stage that uses Hessian-vector products, such as Curvature.")
        super().__init__(params, settings, probing, **options)

    def _observes(self) -> bool:
        return self._template.observes()

    def _settings(self, group: Mapping[str, Any]) -> dict[str, Any]:
        return self._read(group, ("lr", *self._keys.values()))

    def _build(self, settings: dict[str, Any]) -> Recipe:
        values = {name: settings[key] for name, key in self._keys.items()}
        return self._template.with_settings(lr=settings["lr"], **values)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_template": self._template, "_keys": self._keys}

    def _check_keys(self, group: Mapping[str, Any]) -> None:
        for name in _STAGE_ARGUMENTS:
            if name in group and name not in self.defaults:
                raise ArgumentError(
                    f"SGM: a parameter group must not have stages, got {shown(name)}: groups share the stages and may "
                    f"differ in numeric settings ({', '.join(self._keys.values()) or 'none in this recipe'}); "
                    "for different stages create a second SGM."
                )
        super()._check_keys(group)

    def _check_settings(self, settings: Mapping[str, Any]) -> None:
        # Stages check their own settings; the shared table contains the ranges of arguments of named methods.
        super()._check_settings({name: settings[name] for name in _CHECKED if name in settings})


_EXAMPLES = {
    "filter": "dp.Filter(pole={})",
    "rate": "dp.SecondMoment(beta={})",
    "decay": "dp.DecoupledDecay(weight_decay={})",
    "robust": "dp.HuberClip(cap={})",
}


def _suggestion(name: str, given: Any) -> str:
    """Return a hint that names the intended stage if a number or a class is given in place of a stage."""
    if is_number(given):
        return f"; use {_EXAMPLES[name].format(shown(given))}"
    if isinstance(given, type) and issubclass(given, Stage):
        return f"; use dp.{given.__name__}()"
    return ""


def _as_stages(name: str, given: Any) -> tuple[Stage, ...]:
    stages = () if given is None else (given,) if isinstance(given, Stage) else given
    if not isinstance(stages, Sequence) or not all(isinstance(stage, Stage) for stage in stages):
        raise ArgumentError(
            f"SGM: {name} must be None, a Stage or a sequence of Stages, got {shown(given)}{_suggestion(name, given)}."
        )
    return tuple(stages)
