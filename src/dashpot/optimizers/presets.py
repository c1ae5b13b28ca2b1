"""The recipe of each named method as one expression, with the stages in the order in which they are applied.

In the docstrings, g is the gradient, v the direction, and the step is w <- w - lr v.
"""

from __future__ import annotations

from typing import cast

from torch import Tensor

from dashpot.constraints import Scalar
from dashpot.recipes import momentum_forms
from dashpot.recipes.recipe import Recipe
from dashpot.stages import (
    CenteredMoment,
    ClipElements,
    CoupledDecay,
    Curvature,
    DecoupledDecay,
    Filter,
    NesterovMoment,
    RateDecay,
    SecondMoment,
    Stage,
    Warmup,
)
from dashpot.utils.scalars import is_number


def sgd(
    lr: Scalar = 1e-3,
    momentum: Scalar = 0.0,
    dampening: Scalar = 0.0,
    weight_decay: Scalar = 0.0,
    nesterov: bool = False,
) -> Recipe:
    """torch.optim.SGD: v = momentum v + (1 - dampening) g, first v = g; Nesterov steps use g + momentum v."""
    return Recipe(CoupledDecay(weight_decay), *_torch_momentum(momentum, dampening, nesterov), lr=lr)


def _torch_momentum(momentum: Scalar, dampening: Scalar, is_nesterov: bool) -> tuple[Stage, ...]:
    """Return the stage of torch's momentum buffer. For a momentum of exactly zero there is no stage and no state."""
    if is_number(momentum) and momentum == 0:
        return ()
    if is_nesterov:
        return (Filter(**momentum_forms.nesterov(momentum)._asdict(), normalise="none"),)
    start = "zero" if is_number(dampening) and dampening == 0 else "first"
    return (Filter(momentum, gain=1 - dampening, normalise="none", start=start),)


def heavy_ball(lr: Scalar = 1e-2, momentum: Scalar = 0.9, weight_decay: Scalar = 0.0) -> Recipe:
    """Polyak's heavy ball: v = momentum v + g."""
    return Recipe(CoupledDecay(weight_decay), Filter(momentum, gain=1.0, normalise="none"), lr=lr)


def nag(lr: Scalar = 1e-2, momentum: Scalar = 0.9, weight_decay: Scalar = 0.0) -> Recipe:
    """Nesterov's accelerated gradient: b = momentum b + g, v = g + momentum b; zero = momentum/(1 + momentum)."""
    return Recipe(
        CoupledDecay(weight_decay), Filter(**momentum_forms.nesterov(momentum)._asdict(), normalise="none"), lr=lr
    )


def qhm(
    lr: Scalar = 1e-1,
    momentum: Scalar = 0.999,
    nu: Scalar = 0.7,
    weight_decay: Scalar = 0.0,
    debias: bool = False,
) -> Recipe:
    """Quasi-hyperbolic momentum: m = beta m + (1 - beta) g, v = (1 - nu) g + nu m, over 1 - nu beta^t if debiased."""
    return Recipe(CoupledDecay(weight_decay), _quasi_hyperbolic(momentum, nu, debias), lr=lr)


def _quasi_hyperbolic(beta: Scalar, nu: Scalar, debias: bool) -> Filter:
    point = momentum_forms.qhm(beta, nu)
    return Filter(point.pole, point.zero, normalise="exact" if debias else "none", slot="exp_avg")


def rmsprop(
    lr: Scalar = 1e-2,
    alpha: Scalar = 0.99,
    eps: Scalar = 1e-8,
    weight_decay: Scalar = 0.0,
    momentum: Scalar = 0.0,
    centered: bool = False,
) -> Recipe:
    """torch.optim.RMSprop: g/(sqrt(s) + eps) with s = alpha s + (1 - alpha) g^2, not debiased, then a heavy ball."""
    if centered:
        denominator = CenteredMoment(alpha, eps, average="plain", uncentered_steps=0, slot="square_avg")
    else:
        denominator = SecondMoment(alpha, eps, average="plain", slot="square_avg")
    return Recipe(CoupledDecay(weight_decay), denominator, *_torch_momentum(momentum, 0.0, False), lr=lr)


def adagrad(
    lr: Scalar = 1e-2,
    lr_decay: Scalar = 0.0,
    weight_decay: Scalar = 0.0,
    initial_accumulator_value: Scalar = 0.0,
    eps: Scalar = 1e-10,
) -> Recipe:
    """torch.optim.Adagrad: g/(sqrt(s) + eps) with s = s + g^2, and the rate lr/(1 + (t - 1) lr_decay)."""
    initial = initial_accumulator_value
    if isinstance(initial, Tensor) and not initial.is_meta:
        initial = initial.item()
    denominator = SecondMoment(1.0, eps, average="sum", slot="sum", initial=cast(float, initial))
    return Recipe(CoupledDecay(weight_decay), denominator, RateDecay(lr_decay), lr=lr)


def adam(
    lr: Scalar = 1e-3,
    betas: tuple[Scalar, Scalar] = (0.9, 0.999),
    eps: Scalar = 1e-8,
    weight_decay: Scalar = 0.0,
    amsgrad: bool = False,
    decoupled_weight_decay: bool = False,
) -> Recipe:
    """Adam: the debiased first moment over the root of the debiased second moment, with coupled decay."""
    if decoupled_weight_decay:
        return adamw(lr, betas, eps, weight_decay, amsgrad)
    return Recipe(CoupledDecay(weight_decay), *_adam_ratio(betas, eps, amsgrad), lr=lr)


def adamw(
    lr: Scalar = 1e-3,
    betas: tuple[Scalar, Scalar] = (0.9, 0.999),
    eps: Scalar = 1e-8,
    weight_decay: Scalar = 1e-2,
    amsgrad: bool = False,
    decay_scale: str = "lr",
) -> Recipe:
    """AdamW: Adam with decoupled decay; the step is subtracted from w (1 - lr weight_decay)."""
    return Recipe(*_adam_ratio(betas, eps, amsgrad), DecoupledDecay(weight_decay, decay_scale), lr=lr)


def _adam_ratio(betas: tuple[Scalar, Scalar], eps: Scalar, amsgrad: bool) -> tuple[Stage, ...]:
    return Filter(betas[0], slot="exp_avg"), SecondMoment(betas[1], eps, maximum=amsgrad)


def nadam(
    lr: Scalar = 2e-3,
    betas: tuple[Scalar, Scalar] = (0.9, 0.999),
    eps: Scalar = 1e-8,
    weight_decay: Scalar = 0.0,
    momentum_decay: Scalar = 4e-3,
    decoupled_weight_decay: bool = False,
) -> Recipe:
    """torch.optim.NAdam: Adam with Nesterov's first moment."""
    ratio = NesterovMoment(betas[0], momentum_decay), SecondMoment(betas[1], eps)
    if decoupled_weight_decay:
        return Recipe(*ratio, DecoupledDecay(weight_decay), lr=lr)
    return Recipe(CoupledDecay(weight_decay), *ratio, lr=lr)


def qhadam(
    lr: Scalar = 1e-3,
    betas: tuple[Scalar, Scalar] = (0.995, 0.999),
    nus: tuple[Scalar, Scalar] = (0.7, 1.0),
    eps: Scalar = 1e-8,
    weight_decay: Scalar = 0.0,
) -> Recipe:
    """QHAdam: numerator (1 - nu_1) g + nu_1 m^, denominator sqrt((1 - nu_2) g^2 + nu_2 s^) + eps, both debiased."""
    point = momentum_forms.qhm(betas[0], nus[0])
    numerator = Filter(point.pole, point.zero, normalise="memory", slot="exp_avg")
    return Recipe(numerator, SecondMoment(betas[1], eps, nu=nus[1]), DecoupledDecay(weight_decay), lr=lr)


def centered_adam(
    lr: Scalar = 1e-3,
    betas: tuple[Scalar, Scalar] = (0.9, 0.999),
    eps: Scalar = 1e-8,
    weight_decay: Scalar = 0.0,
    mean: str = "average",
    uncentered_steps: int = 10,
) -> Recipe:
    """Adam with the denominator sqrt(s^ - a^^2) + eps, the standard deviation, except for the first steps."""
    denominator = CenteredMoment(betas[1], eps, mean=mean, uncentered_steps=uncentered_steps)
    return Recipe(Filter(betas[0], slot="exp_avg"), denominator, DecoupledDecay(weight_decay), lr=lr)


def esgd(
    lr: Scalar = 1.0,
    betas: tuple[Scalar, Scalar] = (0.9, 0.999),
    v: Scalar | None = None,
    lr_warmup: Scalar = 0.99,
    eps: Scalar = 1e-4,
    weight_decay: Scalar = 0.0,
    version: int = 1,
) -> Recipe:
    """ESGD-M: debiased quasi-hyperbolic momentum over the Hessian's row norms, with warm-up of lr and decay."""
    momentum = _quasi_hyperbolic(betas[0], betas[0] if v is None else v, True)
    accumulator, counts = (("running", "steps"), ("squares", "steps"), ("maximum", "products"))[version]
    denominator = Curvature(1.0 if version == 0 else betas[1], eps, accumulator=accumulator)
    return Recipe(momentum, denominator, Warmup(lr_warmup, counts), DecoupledDecay(weight_decay), lr=lr)


def adahessian(
    lr: Scalar = 0.15,
    betas: tuple[Scalar, Scalar] = (0.9, 0.999),
    eps: Scalar = 1e-4,
    weight_decay: Scalar = 0.0,
    hessian_power: Scalar = 1.0,
    spatial_averaging: bool = True,
) -> Recipe:
    """AdaHessian: AdamW with u H u, averaged over kernel windows, in place of the gradient in the second moment."""
    power = None if is_number(hessian_power) and hessian_power == 1 else hessian_power
    denominator = Curvature(betas[1], eps, "diagonal", power=power, spatial=spatial_averaging)
    return Recipe(Filter(betas[0], slot="exp_avg"), denominator, DecoupledDecay(weight_decay), lr=lr)


def sophia(
    lr: Scalar = 1e-3,
    betas: tuple[Scalar, Scalar] = (0.96, 0.99),
    gamma: Scalar = 0.01,
    eps: Scalar = 1e-12,
    weight_decay: Scalar = 0.1,
) -> Recipe:
    """Sophia-H: the mean gradient over the mean of u H u (at least eps), clipped elementwise at 1."""
    average = Filter(betas[0], normalise="none", slot="exp_avg")
    denominator = Curvature(betas[1], eps, "diagonal", "mean", gamma=gamma)
    return Recipe(average, denominator, ClipElements(1.0), DecoupledDecay(weight_decay), lr=lr)
