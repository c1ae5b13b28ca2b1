"""The methods torch.optim has too, with its signatures argument for argument, its state and its numbers.

`foreach` and `fused` choose between torch's implementations and never change the result; here the engine makes that
choice, so both are accepted and have no effect.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from dashpot.constraints import Scalar, shown
from dashpot.errors import ArgumentError
from dashpot.optimizers import presets
from dashpot.optimizers.base import Optimizer
from dashpot.optimizers.options import BaseOptions, Options, Unpack
from dashpot.optimizers.state_dict import Accepted
from dashpot.schedules import Schedule

__all__ = ["SGD", "Adam", "AdamW", "NAdam", "RMSprop"]

Schedules = Schedule | Mapping[str, Schedule] | None


class SGD(Optimizer):
    """Stochastic gradient descent, with heavy-ball or Nesterov momentum.

        g <- g + weight_decay w
        b <- momentum b + (1 - dampening) g          (the first b is g)
        w <- w - lr b                                (nesterov: w - lr (g + momentum b))

    Args:
        params: Parameters, groups or (name, parameter) pairs.
        lr, weight_decay: >= 0.
        momentum: In [0, 1): the pole of the filter. 0 keeps no state.
        dampening: In [0, 1]; must be 0 with `nesterov`.
        nesterov: Zero of the filter at momentum/(1 + momentum); needs momentum > 0.
        maximize: Ascend: the gradient is negated, the decay is not.
        foreach, fused: Accepted, without effect.
        differentiable: Record the step for autograd.
        schedule, options: See `dashpot.Optimizer`.

    Raises `ArgumentError` for a value outside its range.

    Source: torch.optim.SGD, equal to 1e-11 in float64.

    >>> import torch, dashpot as dp
    >>> w = torch.ones(2, requires_grad=True)
    >>> opt = dp.SGD([w], lr=0.1, momentum=0.9)
    >>> for _ in range(2):
    ...     opt.zero_grad(); w.sum().backward(); opt.step()
    >>> torch.testing.assert_close(w, torch.full((2,), 1 - 0.1 - 0.1 * (1 + 0.9)))
    """

    preset = staticmethod(presets.sgd)

    def __init__(
        self,
        params: Any,
        lr: Scalar = 1e-3,
        momentum: float = 0,
        dampening: float = 0,
        weight_decay: Scalar = 0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
        fused: bool | None = None,
        schedule: Schedules = None,
        **options: Unpack[Options],
    ) -> None:
        settings = {
            "lr": lr,
            "momentum": momentum,
            "dampening": dampening,
            "weight_decay": weight_decay,
            "nesterov": nesterov,
            **_flags(maximize, foreach, differentiable, fused),
        }
        super().__init__(params, settings, schedule, **options)

    def _check_settings(self, settings: Mapping[str, Any]) -> None:
        super()._check_settings(settings)
        if settings.get("nesterov") and (settings.get("momentum", 0) <= 0 or settings.get("dampening", 0) != 0):
            raise ArgumentError(
                "SGD: nesterov needs momentum in (0, 1) and dampening 0, "
                f"got momentum={shown(settings.get('momentum'))}, dampening={shown(settings.get('dampening'))}."
            )


class RMSprop(Optimizer):
    """The gradient over its root mean square, then heavy ball.

        g <- g + weight_decay w
        s <- alpha s + (1 - alpha) g^2,       d = sqrt(s) + eps
        b <- momentum b + g/d,                w <- w - lr b

    Args:
        params: Parameters, groups or (name, parameter) pairs.
        lr, eps, weight_decay: >= 0.
        alpha: In [0, 1): pole of the mean square, which is not bias corrected (as in torch).
        momentum: In [0, 1).
        centered: D = sqrt(s - a^2) + eps with a the average gradient: a standard deviation. Rounding below zero is cut
            to zero.
        maximize, foreach, capturable, differentiable, schedule, options: As in `SGD`.

    Raises `ArgumentError` for a value outside its range.

    Source: torch.optim.RMSprop, equal to 1e-11 in float64.

    >>> import torch, dashpot as dp
    >>> dp.RMSprop([torch.zeros(1, requires_grad=True)], lr=0.01).recipe
    Recipe(CoupledDecay(weight_decay=0), SecondMoment(beta=0.99, average='plain', slot='square_avg'), lr=0.01)
    """

    preset = staticmethod(presets.rmsprop)

    def __init__(
        self,
        params: Any,
        lr: Scalar = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: Scalar = 0,
        momentum: float = 0,
        centered: bool = False,
        capturable: bool = False,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
        *,
        schedule: Schedules = None,
        **options: Unpack[BaseOptions],
    ) -> None:
        settings = {
            "lr": lr,
            "momentum": momentum,
            "alpha": alpha,
            "eps": eps,
            "centered": centered,
            "weight_decay": weight_decay,
            "capturable": capturable,
            **_flags(maximize, foreach, differentiable),
        }
        super().__init__(params, settings, schedule, **options)

    def _accept(self, saved: Mapping[str, Any], own: Mapping[str, Any]) -> Accepted:
        return super()._accept({"momentum": 0, **saved}, own)  # as torch.optim.RMSprop reads an early checkpoint


class Adam(Optimizer):
    """Adam: the debiased mean gradient over the root of the debiased mean square.

        g <- g + weight_decay w
        m <- beta1 m + (1 - beta1) g,       s <- beta2 s + (1 - beta2) g^2
        w <- w - lr m/(1 - beta1^t) / (sqrt(s/(1 - beta2^t)) + eps)

    Args:
        params: Parameters, groups or (name, parameter) pairs.
        lr, eps, weight_decay: >= 0.
        betas: Pair in [0, 1): poles of the gradient filter and of the mean square.
        amsgrad: Divide by the root of the largest s so far, which is kept as `max_exp_avg_sq`.
        maximize, foreach, capturable, fused, differentiable, schedule, options: As in `SGD`.
        decoupled_weight_decay: True makes it `AdamW`.

    Raises `ArgumentError` for a value outside its range.

    Source: Kingma and Ba, arXiv 1412.6980; torch.optim.Adam, equal to 1e-11 in float64.

    >>> import torch, dashpot as dp
    >>> dp.Adam([torch.zeros(1, requires_grad=True)]).recipe
    Recipe(CoupledDecay(weight_decay=0), Filter(pole=0.9, slot='exp_avg'), SecondMoment(beta=0.999), lr=0.001)
    """

    preset = staticmethod(presets.adam)

    def __init__(
        self,
        params: Any,
        lr: Scalar = 1e-3,
        betas: tuple[Scalar, Scalar] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: Scalar = 0,
        amsgrad: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        decoupled_weight_decay: bool = False,
        schedule: Schedules = None,
        **options: Unpack[BaseOptions],
    ) -> None:
        settings = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "amsgrad": amsgrad,
            "capturable": capturable,
            "decoupled_weight_decay": decoupled_weight_decay,
            **_flags(maximize, foreach, differentiable, fused),
        }
        super().__init__(params, settings, schedule, **options)


class AdamW(Optimizer):
    """AdamW: Adam with the decay taken from the weight itself.

        w <- w (1 - lr weight_decay) - lr m^/(sqrt(s^) + eps)

    Args:
        params: Parameters, groups or (name, parameter) pairs.
        lr, eps, weight_decay: >= 0.
        betas: Pair in [0, 1).
        amsgrad: Divide by the root of the largest s so far, which is kept as `max_exp_avg_sq`.
        maximize, foreach, capturable, fused, differentiable, schedule, options: As in `SGD`.
        decay_scale: What multiplies `weight_decay`: "lr" (torch), "schedule" (the schedule's factor, independent of the
            base lr; a torch scheduler's factor counts too), or "constant".

    Raises `ArgumentError` for a value outside its range.

    Source: Loshchilov and Hutter, arXiv 1711.05101; torch.optim.AdamW, equal to 1e-11 in float64.

    >>> import torch, dashpot as dp
    >>> dp.AdamW([torch.zeros(1, requires_grad=True)], lr=3e-4).recipe
    Recipe(Filter(pole=0.9, slot='exp_avg'), SecondMoment(beta=0.999), DecoupledDecay(weight_decay=0.01), lr=0.0003)
    """

    preset = staticmethod(presets.adamw)
    _FIXED: ClassVar[Mapping[str, Any]] = {"decoupled_weight_decay": True}  # read by Adam, torch's and ours
    _FLAGS = (*Optimizer._FLAGS, *_FIXED)

    def __init__(
        self,
        params: Any,
        lr: Scalar = 1e-3,
        betas: tuple[Scalar, Scalar] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: Scalar = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        decay_scale: str = "lr",
        schedule: Schedules = None,
        **options: Unpack[BaseOptions],
    ) -> None:
        settings = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "amsgrad": amsgrad,
            "capturable": capturable,
            "decay_scale": decay_scale,
            **_flags(maximize, foreach, differentiable, fused),
        }
        super().__init__(params, settings, schedule, **options)

    def _accept(self, saved: Mapping[str, Any], own: Mapping[str, Any]) -> Accepted:
        return super()._accept({**saved, **self._FIXED}, own)  # torch.optim.AdamW stays decoupled as well


class NAdam(Optimizer):
    """NAdam: Adam with the first moment read one step ahead and a momentum that grows from beta1/2 to beta1.

        mu_t = beta1 (1 - 0.96^(t momentum_decay)/2),        P_t = mu_1 ... mu_t
        v_t = (1 - mu_t)/(1 - P_t) g_t + mu_{t+1}/(1 - P_{t+1}) m_t,        w <- w - lr v_t/(sqrt(s^) + eps)

    Args:
        params: Parameters, groups or (name, parameter) pairs.
        lr, eps, weight_decay, momentum_decay: >= 0.
        betas: Pair in [0, 1).
        decoupled_weight_decay: Decay as in AdamW instead of coupled to the gradient.
        maximize, foreach, capturable, differentiable, schedule, options: As in `SGD`.

    Raises `ArgumentError` for a value outside its range.

    Source: Dozat (2016); torch.optim.NAdam, equal to 1e-11 in float64 (with float64 as torch's default dtype, in which
    it keeps its product of momenta; with float32 torch itself is rounded to about 1e-9).

    >>> import torch, dashpot as dp
    >>> dp.NAdam([torch.zeros(1, requires_grad=True)]).recipe.stages[1]
    NesterovMoment(beta=0.9, momentum_decay=0.004)
    """

    preset = staticmethod(presets.nadam)

    def __init__(
        self,
        params: Any,
        lr: Scalar = 2e-3,
        betas: tuple[Scalar, Scalar] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: Scalar = 0,
        momentum_decay: float = 4e-3,
        decoupled_weight_decay: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        schedule: Schedules = None,
        **options: Unpack[BaseOptions],
    ) -> None:
        settings = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "momentum_decay": momentum_decay,
            "decoupled_weight_decay": decoupled_weight_decay,
            "capturable": capturable,
            **_flags(maximize, foreach, differentiable),
        }
        super().__init__(params, settings, schedule, **options)


def _flags(maximize: bool, foreach: bool | None, differentiable: bool, *fused: bool | None) -> dict[str, bool | None]:
    """torch's implementation flags, under its names, so that groups pass both ways between torch and dashpot."""
    flags = {"maximize": maximize, "foreach": foreach, "differentiable": differentiable}
    return {**flags, "fused": fused[0]} if fused else flags
