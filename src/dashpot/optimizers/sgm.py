"""The general optimizer: any stages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dashpot.constraints import Scalar, shown
from dashpot.curvature.hvp_options import ProbingOptions
from dashpot.errors import ArgumentError
from dashpot.optimizers.options import Options, Unpack
from dashpot.optimizers.second_order_base import SecondOrder
from dashpot.recipes.recipe import Recipe
from dashpot.schedules import Schedule
from dashpot.stages.base import Stage
from dashpot.utils.scalars import is_number

__all__ = ["SGM"]

Schedules = Schedule | Mapping[str, Schedule] | None

_PARTS = ("filter", "rate", "decay", "robust")
_CHECKED = ("lr", "maximize", "differentiable", "capturable", "seed", "update_d_every", "d_warmup")
_RESERVED = {*_CHECKED, "params", "param_names", "initial_lr", "max_lr", "probe_seed", *SecondOrder._SAVED_COUNTERS}


class SGMOptions(Options, ProbingOptions, total=False):
    """Keywords of `SGM` beside its stages."""


class SGM(SecondOrder):
    """The general point: any stages, in the order of the line.

        g -> coupled decay -> filter -> denominator -> change-level decay -> robust clip -> numerator
          -> decoupled decay -> w

    Args:
        params: Parameters, groups or (name, parameter) pairs.
        lr: >= 0.
        filter, rate, decay, robust: A stage or a sequence of stages each (see `dashpot.stages`), or None for nothing.
            They are put in the order of the line; `SGM.from_recipe` keeps an order of your own.
        maximize, differentiable, schedule, options: As in `HeavyBall`; with a stage that learns from Hessian-vector
            products, such as `Curvature`, also those of `dashpot.curvature.ProbingOptions` (`update_d_every`, `probe`,
            ...).

    The groups hold every numeric setting of the stages under its own name (`zero`, `eps`, `beta`, ...; the pole under
    torch's `momentum`), so that groups can differ and schedulers can reach all of them.

    Raises `ArgumentError` for a value outside its range or something that is not a stage.

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
        maximize: bool = False,
        differentiable: bool = False,
        schedule: Schedules = None,
        **options: Unpack[SGMOptions],
    ) -> None:
        parts = {"filter": filter, "rate": rate, "decay": decay, "robust": robust}
        stages = [stage for name, part in parts.items() for stage in _as_stages(name, part)]
        recipe = Recipe(*sorted(stages, key=lambda stage: stage.position), lr=lr)
        self._start(params, recipe, maximize, differentiable, schedule, options)

    @classmethod
    def from_recipe(
        cls,
        params: Any,
        recipe: Recipe,
        *,
        maximize: bool = False,
        differentiable: bool = False,
        **options: Unpack[SGMOptions],
    ) -> SGM:
        """An optimizer for a recipe as it stands: its order of stages, its lr, its schedules.

        >>> import torch, dashpot as dp
        >>> w = torch.ones(2, requires_grad=True)
        >>> dp.SGM.from_recipe([w], dp.AdamW.recipe_for(lr=0.1)).current_lr()
        0.1
        """
        optimizer = cls.__new__(cls)
        schedule = dict(recipe.schedule) if isinstance(recipe, Recipe) else None
        optimizer._start(params, recipe, maximize, differentiable, schedule, options)
        return optimizer

    def _start(
        self,
        params: Any,
        recipe: Recipe,
        maximize: bool,
        differentiable: bool,
        schedule: Schedules,
        options: SGMOptions,
    ) -> None:
        if not isinstance(recipe, Recipe):
            raise ArgumentError(f"SGM: recipe must be a Recipe, got {shown(recipe)}.")
        self._template = recipe.with_settings(schedule=None)
        names = self._template.settings()
        for name in names.keys() & _RESERVED:
            raise ArgumentError(
                f"SGM: a stage's setting cannot be called {name!r}, which a parameter group uses itself."
            )
        # The pole goes under torch's key, which schedulers write to, unless another setting has that name.
        self._keys = {name: "momentum" if name == "pole" and "momentum" not in names else name for name in names}
        settings = {"lr": recipe.lr, **{self._keys[name]: value for name, value in recipe.settings().items()}}
        probing = {name: options.pop(name) for name in ProbingOptions.__annotations__ if name in options}
        if probing and not self._observes():
            name = next(iter(probing))
            raise ArgumentError(f"SGM: {name} has no use, as no stage learns from Hessian-vector products.")
        settings |= {"maximize": maximize, "differentiable": differentiable}
        super().__init__(params, settings, schedule, probing, **options)

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
        for name in _PARTS:
            if name in group and name not in self.defaults:
                raise ArgumentError(
                    f"SGM: a parameter group cannot have stages of its own, got {name!r}: groups share the stages and "
                    f"may differ in their numbers ({', '.join(self._keys.values()) or 'none here'}); "
                    "for other stages make a second SGM."
                )
        super()._check_keys(group)

    def _check_settings(self, settings: Mapping[str, Any]) -> None:
        # The stages check their own settings; the shared table is about the arguments of named methods.
        super()._check_settings({name: settings[name] for name in _CHECKED if name in settings})


_FROM_A_NUMBER = {
    "filter": "dp.Filter(pole={})",
    "rate": "dp.SecondMoment(beta={})",
    "decay": "dp.DecoupledDecay(weight_decay={})",
    "robust": "dp.HuberClip(cap={})",
}


def _cure(name: str, part: Any) -> str:
    """What was meant by a number or a class in the place of a stage."""
    if is_number(part):
        return f"; say {_FROM_A_NUMBER[name].format(shown(part))}"
    if isinstance(part, type) and issubclass(part, Stage):
        return f"; say dp.{part.__name__}()"
    return ""


def _as_stages(name: str, part: Any) -> tuple[Stage, ...]:
    stages = () if part is None else (part,) if isinstance(part, Stage) else part
    if not isinstance(stages, Sequence) or not all(isinstance(stage, Stage) for stage in stages):
        raise ArgumentError(
            f"SGM: {name} must be None, a Stage or a sequence of Stages, got {shown(part)}{_cure(name, part)}."
        )
    return tuple(stages)
