"""Points of the design space that torch.optim has no class for, and SGM, the general point."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from dashpot import presets
from dashpot.constraints import Scalar, shown
from dashpot.curvature.optimizer import SecondOrder
from dashpot.curvature.probing import ProbingOptions
from dashpot.errors import ArgumentError
from dashpot.numeric import is_number
from dashpot.optim import Optimizer
from dashpot.options import Options, Unpack
from dashpot.recipe import Recipe
from dashpot.schedules import Schedule
from dashpot.stages.base import Stage

__all__ = ["NAG", "QHM", "SGM", "CenteredAdam", "HeavyBall", "QHAdam"]

Schedules = Schedule | Mapping[str, Schedule] | None

_PARTS = ("filter", "rate", "decay", "robust")
_CHECKED = ("lr", "maximize", "differentiable", "capturable", "seed", "update_d_every", "d_warmup")
_RESERVED = {*_CHECKED, "params", "param_names", "initial_lr", "max_lr", "probe_seed", *SecondOrder._COUNTERS}


class HeavyBall(Optimizer):
    """Polyak's heavy ball: v <- pole v + g + weight_decay w, w <- w - lr v.

    The DC gain is 1/(1 - pole): the effective learning rate is lr/(1 - pole).

    params
        parameters, groups or (name, parameter) pairs.
    lr, weight_decay
        >= 0.
    pole
        in [0, 1); kept in the groups under torch's key `momentum`, so that schedulers can cycle it.
    maximize
        ascend: the gradient is negated, the decay is not.
    differentiable
        record the step for autograd.
    schedule, options
        see `dashpot.Optimizer`.

    Raises `ArgumentError` for a value outside its range.

    Source: Polyak (1964); equal to torch.optim.SGD(momentum=pole).

    >>> import torch, dashpot as dp
    >>> dp.diff(dp.HeavyBall([torch.zeros(1)], lr=0.1), dp.SGD([torch.zeros(1)], lr=0.1, momentum=0.9))
    no difference
    """

    preset = staticmethod(presets.heavy_ball)
    _FIXED: ClassVar[Mapping[str, Any]] = {"dampening": 0, "nesterov": False}
    _FLAGS = (*Optimizer._FLAGS, *_FIXED)

    def __init__(
        self,
        params: Any,
        lr: Scalar = 1e-2,
        pole: Scalar = 0.9,
        *,
        weight_decay: Scalar = 0.0,
        maximize: bool = False,
        differentiable: bool = False,
        schedule: Schedules = None,
        **options: Unpack[Options],
    ) -> None:
        settings = {"lr": lr, "momentum": pole, "weight_decay": weight_decay}
        super().__init__(
            params, {**settings, "maximize": maximize, "differentiable": differentiable}, schedule, **options
        )


class NAG(Optimizer):
    """Nesterov's accelerated gradient: b <- pole b + g, w <- w - lr (g + pole b).

    The filter's zero is at pole/(1 + pole), its DC gain 1/(1 - pole).

    params, lr, pole, weight_decay, maximize, differentiable, schedule, options
        as in `HeavyBall`.

    Raises `ArgumentError` for a value outside its range.

    Source: Nesterov (1983); equal to torch.optim.SGD(momentum=pole, nesterov=True).

    >>> import torch, dashpot as dp
    >>> dp.diff(dp.HeavyBall([torch.zeros(1)]), dp.NAG([torch.zeros(1)]))
    Filter.zero: 0.0 | 0.4736842105263158
    Filter.gain: 1.0 | 1.9
    """

    preset = staticmethod(presets.nag)
    _FIXED: ClassVar[Mapping[str, Any]] = {"dampening": 0, "nesterov": True}
    _FLAGS = (*Optimizer._FLAGS, *_FIXED)

    def __init__(
        self,
        params: Any,
        lr: Scalar = 1e-2,
        pole: Scalar = 0.9,
        *,
        weight_decay: Scalar = 0.0,
        maximize: bool = False,
        differentiable: bool = False,
        schedule: Schedules = None,
        **options: Unpack[Options],
    ) -> None:
        settings = {"lr": lr, "momentum": pole, "weight_decay": weight_decay}
        super().__init__(
            params, {**settings, "maximize": maximize, "differentiable": differentiable}, schedule, **options
        )


class QHM(Optimizer):
    """Quasi-hyperbolic momentum: m <- pole m + (1 - pole) g, w <- w - lr ((1 - nu) g + nu m).

    Unit DC gain: the effective learning rate is lr. nu = 1 is averaged momentum, nu = pole Nesterov's zero, nu = 0
    plain.

    params, lr, pole, weight_decay, maximize, differentiable, schedule, options
        as in `HeavyBall`; lr is 1/(1 - pole) times a heavy ball's.
    nu
        in [0, 1].
    debias
        divide by 1 - nu pole^t: a constant gradient comes out unchanged from the first step.

    Raises `ArgumentError` for a value outside its range.

    Source: Ma and Yarats, arXiv 1810.06801.

    >>> import torch, dashpot as dp
    >>> dp.QHM([torch.zeros(1)], lr=1.0, pole=0.5, nu=0.5).recipe.stages[1].zero
    0.3333333333333333
    """

    preset = staticmethod(presets.qhm)

    def __init__(
        self,
        params: Any,
        lr: Scalar = 1e-1,
        pole: Scalar = 0.999,
        nu: Scalar = 0.7,
        *,
        weight_decay: Scalar = 0.0,
        debias: bool = False,
        maximize: bool = False,
        differentiable: bool = False,
        schedule: Schedules = None,
        **options: Unpack[Options],
    ) -> None:
        settings = {"lr": lr, "momentum": pole, "nu": nu, "weight_decay": weight_decay, "debias": debias}
        super().__init__(
            params, {**settings, "maximize": maximize, "differentiable": differentiable}, schedule, **options
        )


class QHAdam(Optimizer):
    """QHAdam: Adam with a share of the raw gradient above and of its square below.

        w <- w (1 - lr weight_decay) - lr ((1 - nu1) g + nu1 m^) / (sqrt((1 - nu2) g^2 + nu2 s^) + eps)

    params
        parameters, groups or (name, parameter) pairs.
    lr, eps, weight_decay
        >= 0; the decay is AdamW's.
    betas
        pair in [0, 1).
    nus
        pair in [0, 1]; (1, 1) is AdamW, (beta1, 1) Nesterov's zero.
    maximize, differentiable, schedule, options
        as in `HeavyBall`.

    Raises `ArgumentError` for a value outside its range.

    Source: Ma and Yarats, arXiv 1810.06801.

    >>> import torch, dashpot as dp
    >>> dp.diff(dp.QHAdam([torch.zeros(1)], betas=(0.9, 0.999), nus=(1.0, 1.0)), dp.AdamW([torch.zeros(1)]))
    Filter.normalise: 'memory' | 'exact'
    DecoupledDecay: - | DecoupledDecay(weight_decay=0.01)
    """

    preset = staticmethod(presets.qhadam)

    def __init__(
        self,
        params: Any,
        lr: Scalar = 1e-3,
        betas: tuple[Scalar, Scalar] = (0.995, 0.999),
        nus: tuple[Scalar, Scalar] = (0.7, 1.0),
        eps: float = 1e-8,
        *,
        weight_decay: Scalar = 0.0,
        maximize: bool = False,
        differentiable: bool = False,
        schedule: Schedules = None,
        **options: Unpack[Options],
    ) -> None:
        settings = {"lr": lr, "betas": betas, "nus": nus, "eps": eps, "weight_decay": weight_decay}
        super().__init__(
            params, {**settings, "maximize": maximize, "differentiable": differentiable}, schedule, **options
        )


class CenteredAdam(Optimizer):
    """Adam over the gradient's standard deviation instead of its root mean square.

        w <- w (1 - lr weight_decay) - lr m^ / (sqrt(max(s^ - a^^2, 0)) + eps)

    params
        parameters, groups or (name, parameter) pairs.
    lr, eps, weight_decay
        >= 0; the decay is AdamW's.
    betas
        pair in [0, 1): poles of m and of s.
    mean
        what a is. "average": the mean gradient with the pole of s, in a slot of its own; the difference then is a
        variance. "direction": m itself, as in the source. It remembers less than s, so that s^ - m^^2 is negative after
        every change of the gradient, is cut at zero, and the step is m^/eps: it takes a large eps to train.
    uncentered_steps
        integer >= 0: while t is below it the root mean square is used, because s^ = a^^2 exactly at t = 1.
    maximize, differentiable, schedule, options
        as in `HeavyBall`.

    Raises `ArgumentError` for a value outside its range.

    Source: the TTIC 31230 lecture notes.

    >>> import torch, dashpot as dp
    >>> dp.diff(dp.AdamW([torch.zeros(1)], weight_decay=0.0), dp.CenteredAdam([torch.zeros(1)]))
    SecondMoment: SecondMoment(beta=0.999) | -
    CenteredMoment: - | CenteredMoment(beta=0.999)
    """

    preset = staticmethod(presets.centered_adam)

    def __init__(
        self,
        params: Any,
        lr: Scalar = 1e-3,
        betas: tuple[Scalar, Scalar] = (0.9, 0.999),
        eps: float = 1e-8,
        *,
        weight_decay: Scalar = 0.0,
        mean: str = "average",
        uncentered_steps: int = 10,
        maximize: bool = False,
        differentiable: bool = False,
        schedule: Schedules = None,
        **options: Unpack[Options],
    ) -> None:
        settings = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "mean": mean}
        settings |= {"uncentered_steps": uncentered_steps, "maximize": maximize, "differentiable": differentiable}
        super().__init__(params, settings, schedule, **options)


class SGMOptions(Options, ProbingOptions, total=False):
    """Keywords of `SGM` beside its stages."""


class SGM(SecondOrder):
    """The general point: any stages, in the order of the line.

        g -> coupled decay -> filter -> denominator -> change-level decay -> robust clip -> numerator
          -> decoupled decay -> w

    params
        parameters, groups or (name, parameter) pairs.
    lr
        >= 0.
    filter, rate, decay, robust
        a stage or a sequence of stages each (see `dashpot.stages`), or None for nothing. They are put in the order of
        the line; `SGM.from_recipe` keeps an order of your own.
    maximize, differentiable, schedule, options
        as in `HeavyBall`; with a stage that learns from Hessian-vector products, such as `Curvature`, also those of
        `dashpot.curvature.ProbingOptions` (`update_d_every`, `probe`, ...).

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
        recipe = Recipe(*sorted(stages, key=lambda stage: stage.place), lr=lr)
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
        >>> dp.SGM.from_recipe([w], dp.AdamW.recipe_for(lr=0.1)).lr_at()
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
