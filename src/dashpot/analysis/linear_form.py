"""Linear form of a recipe: filter, rate and decay of w' = (1 - shrink) w - rate H(z)(g + coupled_decay w)/d."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from dashpot.analysis.rational_filter import RationalFilter
from dashpot.analysis.recipe_argument import recipe_of
from dashpot.constraints import Interval, check, shown
from dashpot.errors import ArgumentError
from dashpot.recipes import momentum_forms
from dashpot.recipes.recipe import Recipe
from dashpot.stages import (
    AdaptiveClip,
    CenteredMoment,
    ChangeDecay,
    ClipElements,
    CoupledDecay,
    Curvature,
    DecoupledDecay,
    Filter,
    HuberClip,
    HuberParcor,
    MomentRate,
    Negate,
    NesterovMoment,
    NudgeSmallWeights,
    Parcor,
    RateDecay,
    SecondMoment,
    Stage,
    Warmup,
)
from dashpot.stages.filter import unit_gain
from dashpot.utils.scalars import is_number, read

SMALLEST, LARGEST = 1e-30, 1e30
"""Range of positive numbers in which no product of a closed form overflows or is rounded to 0."""
_NADAM_DECAY = -math.log(0.96)  # NesterovMoment: 0.96^(t momentum_decay)


@dataclass(frozen=True)
class LinearForm:
    """Linear time-invariant part of a recipe after its initial steps.

        w' = (1 - shrink) w - rate H(z) (g + coupled_decay w) / d

    Attributes:
        filter: H(z), or None if the recipe has stages without a linear form.
        rate: Learning rate including the factor of its schedule; None if it is computed from data.
        coupled_decay: Coefficient of the weight added to the gradient.
        fixed_shrink, shrink_per_rate: Decoupled decay subtracts fixed_shrink + shrink_per_rate * rate of the weight.
        denominator_stages: Stages that divide by d; empty if d is 1.
        filter_first: Whether a filter precedes the denominators.
        correction: Bias correction of the filter, the `normalise` of `Filter`; "none" without a filter.
        limits: Conditions under which the form holds, as sentences.
        filter_limits: Those of them that concern the filter alone.
        reasons: Reasons why the filter or the rate are undefined, as sentences.
    """

    filter: RationalFilter | None
    rate: float | None
    coupled_decay: float = 0.0
    fixed_shrink: float = 0.0
    shrink_per_rate: float = 0.0
    denominator_stages: tuple[Stage, ...] = ()
    filter_first: bool = True
    correction: str = "none"
    limits: tuple[str, ...] = ()
    filter_limits: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()

    @property
    def denominators(self) -> tuple[str, ...]:
        """Names of the stages that divide by d; empty if d is 1."""
        return tuple(type(stage).__name__ for stage in self.denominator_stages)

    @property
    def adaptive(self) -> bool:
        """Whether the step is divided by a denominator d; curvatures are then in units of d."""
        return bool(self.denominators)

    @property
    def vanishes(self) -> bool:
        """Whether a denominator grows without limit, so that the step per gradient tends to 0 (AdaGrad)."""
        return any(map(_grows, self.denominator_stages))

    @property
    def shrink(self) -> float | None:
        """Fraction of the weight subtracted per step by decoupled decay; None if it depends on an undefined rate."""
        if self.shrink_per_rate == 0:
            return self.fixed_shrink
        return None if self.rate is None else self.fixed_shrink + self.shrink_per_rate * self.rate


def linear_form(recipe: Any, owner: str = "linear_form", step: int | None = None) -> LinearForm:
    """Return the linear form of a recipe, a filter stage or a rational filter.

    Args:
        recipe: A recipe, an optimizer whose groups have the same recipe, or a filter, which has a rate of 1.
        owner: Name of the calling function, for error messages.
        step: Number of completed steps at which schedules are evaluated. None: settings without their schedules.

    Raises:
        ArgumentError: If `recipe` has another type, or a setting is not readable as a number.
    """
    if isinstance(recipe, RationalFilter):
        return _within_range(LinearForm(recipe, 1.0))
    recipe, conditions = recipe_of(owner, recipe)
    numbers, factor, limits = _evaluated(recipe, owner, step)
    walk = _Walk(
        rate=float(numbers.lr) * factor,
        factor=factor,
        filter_limits=limits,
        limits=conditions,
        t=None if step is None else step + 1,
    )
    for stage in numbers.active():
        _READERS.get(type(stage), _unknown)(walk, stage)
    return _within_range(walk.form())


def _within_range(form: LinearForm) -> LinearForm:
    """Return a form without its filter if double precision does not suffice for its numbers."""
    if form.filter is None:
        return form
    gain, roots = abs(form.filter.gain), (*form.filter.zeros, *form.filter.poles)
    decays = form.coupled_decay, form.fixed_shrink, form.shrink_per_rate
    if max(map(abs, (gain, *roots, *decays))) > LARGEST or 0 < gain < SMALLEST:
        reason = f"A gain, zero or decay has a magnitude outside [{SMALLEST:g}, {LARGEST:g}]."
    elif form.filter.first_order is None and _is_ill_conditioned(form.filter.reduced()):
        reason = f"The poles of the filter of order {form.filter.order} are too close to 1 for double precision."
    else:
        return form
    return dataclasses.replace(form, filter=None, reasons=(*form.reasons, reason))


def _is_ill_conditioned(section: RationalFilter) -> bool:
    """Return whether the roots of a polynomial that contains the poles of a stable filter are inaccurate."""
    inside = [pole for pole in section.poles if abs(pole) < 1]
    return any(1 - abs(pole) < 1e-5 for pole in inside) or math.prod(abs(1 - pole) for pole in inside) < 5e-7


def _evaluated(recipe: Recipe, owner: str, step: int | None) -> tuple[Recipe, float, list[str]]:
    """Return the recipe with Python numbers, the factor of lr's schedule, and limits due to schedules."""
    factor, limits = 1.0, []
    if step is not None:
        check(owner, "step", step, Interval(0, math.inf, "left", integer=True))
        recipe, factor = recipe.at(step)
    elif recipe.schedule:
        names = ", ".join(name for name, _ in recipe.schedule)
        limits.append(f"The schedule of {names} is not applied; pass `step` for the values at a step.")
        recipe = recipe.with_settings(schedule=None)
    values = {"lr": recipe.lr, **recipe.settings()}
    numbers = {name: read(value) for name, value in values.items()}
    for name, value in numbers.items():
        if not is_number(value):
            raise ArgumentError(f"{owner}: {name} must be a number or a tensor on the CPU, got {shown(value)}.")
    changed = {name: value for name, value in numbers.items() if value is not values[name]}
    return recipe.with_settings(**changed) if changed else recipe, factor, limits


@dataclass
class _Walk:
    """Linear form of the stages read so far; `t` is the step of the parameter, or None for the limit."""

    rate: float | None
    factor: float
    filter_limits: list[str]
    t: int | None
    limits: list[str] = dataclasses.field(default_factory=list)
    reasons: list[str] = dataclasses.field(default_factory=list)
    filter: RationalFilter | None = dataclasses.field(default_factory=RationalFilter)
    filters: int = 0
    coupled_decay: float = 0.0
    fixed_shrink: float = 0.0
    change_decay: float = 0.0
    decoupled_decay: float = 0.0
    denominators: list[Stage] = dataclasses.field(default_factory=list)
    filter_first: bool = True
    negated: bool = False
    correction: str = "none"

    def undefined(self, reason: str) -> None:
        self.filter = None
        self.reasons.append(reason)

    def multiply(self, section: RationalFilter, correction: str) -> None:
        if self.change_decay:
            self.undefined("A filter after ChangeDecay also filters the decay, which the closed forms exclude.")
        if self.filters == 0:
            self.filter_first, self.correction = not self.denominators, correction
        self.filters += 1
        self.filter = None if self.filter is None else self.filter * section

    def form(self) -> LinearForm:
        return LinearForm(
            filter=self.filter,
            rate=self.rate,
            coupled_decay=self.coupled_decay,
            fixed_shrink=self.fixed_shrink,
            shrink_per_rate=self.change_decay + self.decoupled_decay,
            denominator_stages=tuple(self.denominators),
            filter_first=self.filter_first,
            correction=self.correction,
            limits=(*self.filter_limits, *self.limits),
            filter_limits=tuple(self.filter_limits),
            reasons=tuple(self.reasons),
        )


def _filter(walk: _Walk, stage: Filter) -> None:
    gain = unit_gain(stage.pole, stage.zero) if stage.gain is None else stage.gain
    walk.multiply(RationalFilter((float(stage.zero),), (float(stage.pole),), float(gain)), stage.normalise)


def _nesterov_moment(walk: _Walk, stage: NesterovMoment) -> None:
    """NAdam's filter is QHM with nu = mu, which increases from beta/2 to beta."""
    nu = stage.beta if stage.momentum_decay else stage.beta / 2
    point = momentum_forms.qhm(stage.beta, nu)
    walk.multiply(RationalFilter((float(point.zero),), (float(point.pole),), float(point.gain)), "exact")
    if stage.momentum_decay and stage.beta:
        steps = 1 / (_NADAM_DECAY * float(stage.momentum_decay))
        walk.filter_limits.append(
            f"The momentum of NesterovMoment rises from {stage.beta / 2:g} to {stage.beta:g} over about {steps:.0f} "
            "steps; the filter is the limit."
        )


def _coupled_decay(walk: _Walk, stage: CoupledDecay) -> None:
    if walk.filters or walk.denominators or walk.change_decay or walk.negated:
        walk.undefined("CoupledDecay after a stage that changes the direction replaces the direction by the gradient.")
    walk.coupled_decay += float(stage.weight_decay)


def _decoupled_decay(walk: _Walk, stage: DecoupledDecay) -> None:
    if stage.scale == "lr":
        walk.decoupled_decay += float(stage.weight_decay)
    else:
        walk.fixed_shrink += float(stage.weight_decay) * (walk.factor if stage.scale == "schedule" else 1.0)


def _change_decay(walk: _Walk, stage: ChangeDecay) -> None:
    decay = float(stage.weight_decay * stage.factor)
    if stage.scale == "lr":
        walk.change_decay += decay
    else:
        walk.fixed_shrink += decay * (walk.factor if stage.scale == "schedule" else 1.0)


def _denominator(walk: _Walk, stage: Stage) -> None:
    if walk.change_decay:
        walk.undefined("A denominator after ChangeDecay also divides the decay, which the closed forms exclude.")
    if not walk.denominators:
        walk.limits.append("The denominator d is treated as constant.")
    walk.denominators.append(stage)
    if _grows(stage):
        walk.limits.append("d is the root of a sum over all steps, so that h/d decreases.")


def _grows(stage: Stage) -> bool:
    """Return True for a denominator that grows without limit, the root of a sum over all steps."""
    return isinstance(stage, SecondMoment) and stage.average == "sum" and bool(stage.beta == 1)


def _curvature(walk: _Walk, stage: Curvature) -> None:
    _denominator(walk, stage)
    if stage.accumulator == "mean":
        walk.limits.append("d estimates gamma times the diagonal of the Hessian, bounded below by eps.")
    else:
        entry = "norms of the rows" if stage.estimate == "row-norm" else "magnitude of the diagonal"
        power = "" if stage.power is None else f", to the power {stage.power:g}"
        walk.limits.append(f"d estimates the {entry} of the Hessian{power}, plus eps.")


def _warmup(walk: _Walk, stage: Warmup) -> None:
    if stage.counts == "steps" and walk.t is not None:
        _scale_rate(walk, 1 - float(stage.rho) ** walk.t)
        return
    unit = "steps" if stage.counts == "steps" else "Hessian-vector products"
    walk.limits.append(f"Warmup multiplies the rate by 1 - {stage.rho:g}^n, with n in {unit}; the rate is the limit.")


def _rate_decay(walk: _Walk, stage: RateDecay) -> None:
    if walk.t is not None:
        _scale_rate(walk, 1 / (1 + (walk.t - 1) * float(stage.lr_decay)))
        return
    walk.limits.append(
        f"RateDecay halves the rate after {1 / float(stage.lr_decay):.4g} steps; the rate is that of the first step."
    )


def _scale_rate(walk: _Walk, share: float) -> None:
    """Scale the rate; an earlier decoupled decay keeps the rate before this stage."""
    walk.decoupled_decay /= share
    walk.rate = None if walk.rate is None else walk.rate * share


def _numerator(walk: _Walk, stage: Parcor | HuberParcor | MomentRate) -> None:
    walk.rate = None
    bound = "at most lr" if isinstance(stage, MomentRate) else "at most lr (1 + mean E[w^2])"
    walk.reasons.append(f"{type(stage).__name__} computes the learning rate from data; it is {bound}.")


def _clip(walk: _Walk, stage: Stage) -> None:
    inactive = {
        AdaptiveClip: "AdaptiveClip scales the gradient down if its norm exceeds a share of the weight norm",
        HuberClip: "HuberClip scales the direction down if its norm deviates by more than `cap` standard deviations",
        ClipElements: "ClipElements bounds every element of the direction",
    }
    walk.limits.append(f"{inactive[type(stage)]}; the linear form holds while the clip is inactive.")


def _negate(walk: _Walk, stage: Negate) -> None:
    del stage
    walk.negated, walk.change_decay = True, -walk.change_decay
    if walk.filter is not None:
        walk.filter = walk.filter * RationalFilter(gain=-1.0)
    walk.limits.append("Negate reverses the direction: the method maximizes unless the gradient is negated as well.")


def _ignored(walk: _Walk, stage: Stage) -> None:
    """A stage without an effect after the first step."""
    del walk, stage


def _unknown(walk: _Walk, stage: Stage) -> None:
    walk.undefined(f"{type(stage).__name__} is a stage without a known linear form.")


_READERS: Mapping[type[Stage], Callable[[_Walk, Any], None]] = {
    AdaptiveClip: _clip,
    CenteredMoment: _denominator,
    ChangeDecay: _change_decay,
    ClipElements: _clip,
    CoupledDecay: _coupled_decay,
    Curvature: _curvature,
    DecoupledDecay: _decoupled_decay,
    Filter: _filter,
    HuberClip: _clip,
    HuberParcor: _numerator,
    MomentRate: _numerator,
    Negate: _negate,
    NesterovMoment: _nesterov_moment,
    NudgeSmallWeights: _ignored,
    Parcor: _numerator,
    RateDecay: _rate_decay,
    SecondMoment: _denominator,
    Warmup: _warmup,
}
