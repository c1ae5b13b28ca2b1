"""Changes of the settings of each stage for a batch that is `ratio` times as large."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from dashpot.analysis.rounding import tidy
from dashpot.analysis.time_scaling import faster_pole
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

_SAME = 1e-9  # relative tolerance for zeros and gains that were computed from the pole

_HOLD = "; momentum='steps' holds the momentum"


class Edit(NamedTuple):
    """New value of one field of a stage, with the reason."""

    value: float
    reason: str


@dataclass
class StageRule:
    """Effect of a larger batch on one stage.

    Attributes:
        edits: New values by field.
        kept: Reasons for unchanged fields.
        shrink: Factor d/d' by which the denominator decreases.
        limits: Conditions under which the rule holds, as sentences.
        outside: Reason why no rule covers the stage; None if a rule does.
    """

    edits: dict[str, Edit] = field(default_factory=dict)
    kept: dict[str, str] = field(default_factory=dict)
    shrink: float = 1.0
    limits: list[str] = field(default_factory=list)
    outside: str | None = None


class Scaling(NamedTuple):
    """A change of the batch size.

    Attributes:
        ratio: New batch over old batch.
        rule: "linear": the size of the gradient is independent of the batch; "sqrt": the gradient is noise, with a size
            proportional to batch^(-1/2).
        holds_momentum: Whether the poles of filters are held per step, not per example.
        noise: Noise scale over the old batch; infinite if gradients are assumed to be noise.
    """

    ratio: float
    rule: str
    holds_momentum: bool
    noise: float = math.inf

    @property
    def progress(self) -> float:
        """Progress of a new step in old steps: (1 + noise)/(1 + noise/ratio), the ratio for infinite noise."""
        return self.ratio if math.isinf(self.noise) else (1 + self.noise) / (1 + self.noise / self.ratio)

    @property
    def unit(self) -> str:
        """What an average or a schedule keeps, in words."""
        return "the same number of examples" if math.isinf(self.noise) else "the same progress"


def stage_rule(stage: Stage, scaling: Scaling) -> StageRule:
    """Return the effect of a larger batch on a stage, except for decay, which depends on the new learning rate."""
    rule = StageRule()
    _RULES.get(type(stage), _unknown)(stage, scaling, rule)
    return rule


def dc_gain(recipe: Recipe) -> float:
    """Return the product of the DC gains of the filters, the total weight of a gradient over all steps."""
    points = (
        momentum_forms.Point(
            stage.pole, stage.zero, unit_gain(stage.pole, stage.zero) if stage.gain is None else stage.gain
        )
        for stage in recipe.active()
        if isinstance(stage, Filter)
    )
    return math.prod(float(point.dc_gain) for point in points)


def divides(recipe: Recipe) -> bool:
    """Return whether the recipe divides by a second moment of the gradient."""
    return any(isinstance(stage, (SecondMoment, CenteredMoment)) for stage in recipe.active())


# ---- averages --------------------------------------------------------------------------------------------------------


def _pole(name: str, pole: float, scaling: Scaling, rule: StageRule, hint: str = "") -> float:
    """Add the edit of a pole whose memory is constant in examples, and return the new pole.

    Args:
        name: Field of the stage.
        pole: Present pole.
        scaling: The change of the batch size.
        rule: The rule to extend.
        hint: Addition to the limit if the pole is clamped at 0.
    """
    if pole in (0, 1):  # no memory, or a sum
        return pole
    new = faster_pole(pole, scaling.progress)
    divisor = "ratio" if math.isinf(scaling.noise) else f"{scaling.progress:.4g}"
    rule.edits[name] = Edit(new, f"the average covers {scaling.unit}: N -> max(1, N/{divisor})")
    if scaling.progress * (1 - pole) > 1 + _SAME:
        rule.limits.append(
            f"An average over {1 / (1 - pole):.4g} steps cannot be shortened by the factor {scaling.progress:.4g}: "
            f"{name} is 0, and one batch has more examples than the average had{hint}."
        )
    return new


def _filter(stage: Filter, scaling: Scaling, rule: StageRule) -> None:
    pole, zero = float(stage.pole), float(stage.zero)
    if scaling.holds_momentum:
        if pole:
            rule.kept["pole"] = "the momentum is held per step; the average covers `ratio` times as many examples"
        return
    new = _pole("pole", pole, scaling, rule, _HOLD)
    if pole == 0:
        if zero:
            rule.limits.append("A filter without a pole has no horizon: its zero is unchanged.")
        return
    new_zero = _moved_zero(pole, zero, new)
    if new_zero != zero:
        rule.edits["zero"] = Edit(new_zero, "the form of momentum (Nesterov, or nu of QHM) is kept")
    elif zero:
        rule.kept["zero"] = "a negative zero averages neighbouring gradients"
    if stage.gain is None:
        return
    gain = float(stage.gain)
    if math.isclose(gain, 1 + pole, rel_tol=_SAME) and _is_nesterov(pole, zero):
        rule.edits["gain"] = Edit(1 + new, "Nesterov momentum has the gain 1 + pole")
    elif math.isclose(gain, unit_gain(pole, zero), rel_tol=_SAME):
        rule.edits["gain"] = Edit(float(unit_gain(new, new_zero)), "the DC gain of 1 is kept")
    else:
        rule.kept["gain"] = "the weight of the newest gradient is kept; lr compensates for the DC gain"


def _moved_zero(pole: float, zero: float, new: float) -> float:
    """Return the zero for a new pole: Nesterov's form is kept; otherwise QHM's nu.

    A negative zero, for which nu is above 1, is unchanged: the filter for this nu may not exist at a larger pole.
    """
    if new == 0:
        return 0.0
    if zero <= 0:
        return zero
    if _is_nesterov(pole, zero):
        return new / (1 + new)
    nu = (pole - zero) / (pole * (1 - zero))
    return (1 - nu) * new / (1 - nu * new)


def _is_nesterov(pole: float, zero: float) -> bool:
    return math.isclose(zero, pole / (1 + pole), rel_tol=_SAME)


def _nesterov_moment(stage: NesterovMoment, scaling: Scaling, rule: StageRule) -> None:
    if scaling.holds_momentum:
        rule.kept["beta"] = "the momentum is held per step"
    else:
        _pole("beta", float(stage.beta), scaling, rule, _HOLD)
    if stage.momentum_decay:
        decay = tidy(float(stage.momentum_decay) * scaling.progress)
        rule.edits["momentum_decay"] = Edit(decay, f"the momentum rises over {scaling.unit}")


# ---- denominators ----------------------------------------------------------------------------------------------------


def _second_moment(stage: SecondMoment, scaling: Scaling, rule: StageRule) -> None:
    _pole("beta", float(stage.beta), scaling, rule)
    is_sum = stage.average == "sum"
    power = (0.5 if is_sum else 0.0) + (0.5 if scaling.rule == "sqrt" else 0.0)
    rule.shrink = scaling.progress**power
    _eps(stage.eps, 2 if stage.eps_mode == "inside" else 1, rule)
    if stage.maximum:
        rule.limits.append(
            "The maximum of the second moment (AMSGrad) depends on the number of steps; its scaling is approximate."
        )
    if stage.initial:
        rule.limits.append("The initial value of the second moment is unchanged, and affects the first steps.")
    if stage.nu != 1:
        rule.kept["nu"] = "a weight without a unit of time"
    _noise_limit(scaling, rule, is_noise=False)


def _centered_moment(stage: CenteredMoment, scaling: Scaling, rule: StageRule) -> None:
    _pole("beta", float(stage.beta), scaling, rule)
    exponent = 1.0 if stage.power == "variance" else 0.5
    rule.shrink = scaling.ratio**exponent if scaling.rule == "sqrt" else 1.0
    _eps(stage.eps, 2 if stage.eps_mode == "inside" and stage.power == "std" else 1, rule)
    _noise_limit(scaling, rule, is_noise=True)


def _eps(eps: Any, power: int, rule: StageRule) -> None:
    if not eps:
        return
    if rule.shrink == 1:
        rule.kept["eps"] = "the denominator is assumed not to depend on the batch"
    else:
        rule.edits["eps"] = Edit(tidy(float(eps) / rule.shrink**power), "eps keeps its ratio to the denominator")


def _noise_limit(scaling: Scaling, rule: StageRule, *, is_noise: bool) -> None:
    if scaling.rule == "linear":
        rule.limits.append(
            "The linear rule assumes a denominator that does not depend on the batch, i.e. gradients that are larger "
            "than their noise."
        )
    elif not is_noise and math.isinf(scaling.noise):
        rule.limits.append(
            "The denominator is assumed to be noise, E[g^2] ~ sigma^2/B: for a new batch of sigma^2/E[g]^2 examples, "
            "lr/d is only 0.71 of its proportional value."
        )


# ---- other stages ----------------------------------------------------------------------------------------------------


def _warmup(stage: Warmup, scaling: Scaling, rule: StageRule) -> None:
    if stage.counts == "products":
        rule.kept["rho"] = "counts Hessian-vector products, not examples"
    elif stage.rho:
        rho = tidy(float(stage.rho) ** scaling.progress)
        rule.edits["rho"] = Edit(rho, f"the warm-up covers {scaling.unit}")


def _rate_decay(stage: RateDecay, scaling: Scaling, rule: StageRule) -> None:
    decay = tidy(float(stage.lr_decay) * scaling.progress)
    rule.edits["lr_decay"] = Edit(decay, f"the rate decays over {scaling.unit}")


def _decay(stage: Stage, scaling: Scaling, rule: StageRule) -> None:
    """Decay is scaled after the learning rate."""
    del stage, scaling, rule


def _clip(stage: Stage, scaling: Scaling, rule: StageRule) -> None:
    rule.kept |= dict.fromkeys(stage.numeric(), "a bound on the size of the step")
    name = type(stage).__name__
    smaller = f", by up to a factor of {math.sqrt(scaling.ratio):.4g}" if scaling.ratio > 1 else ""
    if isinstance(stage, AdaptiveClip):
        rule.limits.append(f"{name}: gradients of larger batches have less noise and smaller norms{smaller}.")
    else:
        rule.limits.append(f"{name}: the rule holds for steps that are not clipped.")


def _curvature(stage: Curvature, scaling: Scaling, rule: StageRule) -> None:
    del stage, scaling
    rule.outside = "its noise depends on the batch of the Hessian-vector products, for which the sources have no rule"


def _numerator(stage: Stage, scaling: Scaling, rule: StageRule) -> None:
    del stage, scaling
    rule.outside = "it computes the learning rate from data"


def _unknown(stage: Stage, scaling: Scaling, rule: StageRule) -> None:
    del stage, scaling
    rule.outside = "its dependence on the batch is unknown"


_RULES: Mapping[type[Stage], Callable[[Any, Scaling, StageRule], None]] = {
    AdaptiveClip: _clip,
    CenteredMoment: _centered_moment,
    ChangeDecay: _decay,
    ClipElements: _clip,
    CoupledDecay: _decay,
    Curvature: _curvature,
    DecoupledDecay: _decay,
    Filter: _filter,
    HuberClip: _clip,
    HuberParcor: _numerator,
    MomentRate: _numerator,
    Negate: _decay,
    NesterovMoment: _nesterov_moment,
    NudgeSmallWeights: _decay,
    Parcor: _numerator,
    RateDecay: _rate_decay,
    SecondMoment: _second_moment,
    Warmup: _warmup,
}
