"""The methods of torch.optim, with torch's signatures, state keys and numerical results.

In torch, `foreach` and `fused` select an implementation without changing the result. Here the engine selects the
implementation, so both arguments are accepted but have no effect.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from typing_extensions import Unpack

from dashpot.constraints import Scalar, shown
from dashpot.errors import ArgumentError
from dashpot.optimizers import presets
from dashpot.optimizers.base import Optimizer
from dashpot.optimizers.options import BaseOptions
from dashpot.optimizers.state_dict import AcceptedGroup


class SGD(Optimizer):
    """Stochastic gradient descent with optional heavy-ball or Nesterov momentum.

        g <- g + weight_decay w
        b <- momentum b + (1 - dampening) g          (the first b is g)
        w <- w - lr b                                (nesterov: w - lr (g + momentum b))

    Args:
        params: Parameters, parameter groups or (name, parameter) pairs.
        lr: Learning rate, >= 0.
        momentum: Pole of the filter, in [0, 1). With 0, no state is stored.
        dampening: Dampening of the gradient in the momentum buffer, in [0, 1]; must be 0 if `nesterov` is set.
        weight_decay: Coefficient of the L2 penalty, >= 0.
        nesterov: Whether to use Nesterov momentum, that is, a filter with a zero at momentum/(1 + momentum). Requires
            momentum > 0.
        maximize: Whether to maximize the objective, by negating the gradient but not the decay.
        foreach, fused: No effect. In torch, these arguments select an implementation; here the engine does so.
        capturable: Support CUDA graphs, see `dashpot.Options`.
        differentiable: Whether to record the step in the autograd graph.
        options: Options common to all optimizers (`schedule`, `engine`, `max_norm`, ...), see `dashpot.Options`.

    Raises:
        ArgumentError: If a value is outside its range.

    Source:
        torch.optim.SGD; the results agree to a relative error of 1e-11 in float64.

    Example:
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
        capturable: bool = False,
        **options: Unpack[BaseOptions],
    ) -> None:
        settings = {"lr": lr, "momentum": momentum, "dampening": dampening, "weight_decay": weight_decay}
        settings |= {"nesterov": nesterov, **_flags(maximize, foreach, differentiable, fused)}
        super().__init__(params, settings, capturable=capturable, **options)

    def _check_settings(self, settings: Mapping[str, Any]) -> None:
        super()._check_settings(settings)
        if settings.get("nesterov") and (settings.get("momentum", 0) <= 0 or settings.get("dampening", 0) != 0):
            raise ArgumentError(
                "SGD: nesterov requires momentum in (0, 1) and dampening 0, "
                f"got momentum={shown(settings.get('momentum'))}, dampening={shown(settings.get('dampening'))}."
            )


class RMSprop(Optimizer):
    """The gradient divided by its root mean square, with optional heavy-ball momentum.

        g <- g + weight_decay w
        s <- alpha s + (1 - alpha) g^2,       d = sqrt(s) + eps
        b <- momentum b + g/d,                w <- w - lr b

    Args:
        params: Parameters, parameter groups or (name, parameter) pairs.
        lr: Learning rate, >= 0.
        alpha: Decay rate of the mean square, in [0, 1). The mean square is not bias corrected, as in torch.
        eps: Term added to the denominator, >= 0.
        weight_decay: Coefficient of the L2 penalty, >= 0.
        momentum: Pole of the heavy-ball filter, in [0, 1). With 0, no buffer is stored.
        centered: Whether to divide by the standard deviation, d = sqrt(s - a^2) + eps, where a is the moving average of
            the gradient. If rounding makes s - a^2 negative, it is clamped to zero.
        maximize: Whether to maximize the objective, by negating the gradient but not the decay.
        foreach: No effect. In torch, this argument selects an implementation; here the engine does so.
        capturable: Support CUDA graphs, see `dashpot.Options`.
        differentiable: Whether to record the step in the autograd graph.
        options: Options common to all optimizers, see `dashpot.Options`.

    Raises:
        ArgumentError: If a value is outside its range.

    Source:
        torch.optim.RMSprop; the results agree to a relative error of 1e-11 in float64.

    Example:
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
        **options: Unpack[BaseOptions],
    ) -> None:
        settings = {"lr": lr, "momentum": momentum, "alpha": alpha, "eps": eps, "centered": centered}
        settings |= {"weight_decay": weight_decay, "capturable": capturable}
        settings |= _flags(maximize, foreach, differentiable)
        super().__init__(params, settings, **options)

    def _accept(self, saved: Mapping[str, Any], own: Mapping[str, Any]) -> AcceptedGroup:
        return super()._accept({"momentum": 0, **saved}, own)  # same default as in torch.optim.RMSprop


class Adagrad(Optimizer):
    """AdaGrad: the gradient divided by the root of the sum of its squares over all steps.

        g <- g + weight_decay w
        s <- s + g^2,       w <- w - lr/(1 + (t - 1) lr_decay) g/(sqrt(s) + eps)

    The first s is `initial_accumulator_value`. For gradients of constant size, the step falls like lr/sqrt(t).

    Args:
        params: Parameters, parameter groups or (name, parameter) pairs.
        lr: Learning rate, >= 0.
        lr_decay: Decay of the learning rate per step of a parameter, >= 0.
        weight_decay: Coefficient of the L2 penalty, >= 0.
        initial_accumulator_value: Initial value of s, >= 0, for parameters whose state does not exist yet. Groups may
            have different values, whereas torch uses the value of the constructor for all groups.
        eps: Term added to the denominator, >= 0.
        maximize: Whether to maximize the objective, by negating the gradient but not the decay.
        foreach, fused: No effect. In torch, these arguments select an implementation; here the engine does so.
        capturable: Support CUDA graphs, see `dashpot.Options`.
        differentiable: Whether to record the step in the autograd graph.
        options: Options common to all optimizers, see `dashpot.Options`.

    Raises:
        ArgumentError: If a value is outside its range.

    Source:
        Duchi et al., JMLR 12 (2011), 2121-2159; torch.optim.Adagrad, whose results agree to a relative error of 1e-11
        in float64.

    Example:
        >>> import torch, dashpot as dp
        >>> w = torch.ones(1, requires_grad=True)
        >>> opt = dp.Adagrad([w], lr=0.5)
        >>> for _ in range(2):
        ...     opt.zero_grad(); w.sum().backward(); opt.step()
        >>> torch.testing.assert_close(w, torch.full((1,), 1 - 0.5 - 0.5 / 2**0.5))
        >>> opt.recipe
        Recipe(CoupledDecay(weight_decay=0), SecondMoment(beta=1.0, eps=1e-10, average='sum', slot='sum'),
               RateDecay(lr_decay=0), lr=0.5)
    """

    preset = staticmethod(presets.adagrad)

    def __init__(
        self,
        params: Any,
        lr: Scalar = 1e-2,
        lr_decay: float = 0,
        weight_decay: Scalar = 0,
        initial_accumulator_value: float = 0,
        eps: float = 1e-10,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        capturable: bool = False,
        **options: Unpack[BaseOptions],
    ) -> None:
        settings = {"lr": lr, "lr_decay": lr_decay, "weight_decay": weight_decay, "eps": eps}
        settings |= {"initial_accumulator_value": initial_accumulator_value}
        settings |= _flags(maximize, foreach, differentiable, fused)
        super().__init__(params, settings, capturable=capturable, **options)
        if "initial_accumulator_value" in self.schedule:
            raise ArgumentError(
                "Adagrad: schedule must not contain initial_accumulator_value, which only initializes state."
            )


class Adam(Optimizer):
    """Adam: the bias-corrected mean of the gradient divided by the root of its bias-corrected mean square.

        g <- g + weight_decay w
        m <- beta1 m + (1 - beta1) g,       s <- beta2 s + (1 - beta2) g^2
        w <- w - lr m/(1 - beta1^t) / (sqrt(s/(1 - beta2^t)) + eps)

    Args:
        params: Parameters, parameter groups or (name, parameter) pairs.
        lr: Learning rate, >= 0.
        betas: Decay rates of m and s, both in [0, 1).
        eps: Term added to the denominator, >= 0.
        weight_decay: Coefficient of the L2 penalty, >= 0.
        amsgrad: Whether to divide by the root of the maximum of s so far, which is stored as `max_exp_avg_sq`.
        maximize: Whether to maximize the objective, by negating the gradient but not the decay.
        foreach, fused: No effect. In torch, these arguments select an implementation; here the engine does so.
        capturable: Support CUDA graphs, see `dashpot.Options`.
        differentiable: Whether to record the step in the autograd graph.
        decoupled_weight_decay: Whether to decay the weight as `AdamW` does, instead of adding the decay to the
            gradient.
        options: Options common to all optimizers, see `dashpot.Options`.

    Raises:
        ArgumentError: If a value is outside its range.

    Source:
        Kingma and Ba, arXiv 1412.6980; torch.optim.Adam, whose results agree to a relative error of 1e-11 in float64.

    Example:
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
        **options: Unpack[BaseOptions],
    ) -> None:
        settings = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "amsgrad": amsgrad}
        settings |= {"capturable": capturable, "decoupled_weight_decay": decoupled_weight_decay}
        settings |= _flags(maximize, foreach, differentiable, fused)
        super().__init__(params, settings, **options)


class AdamW(Optimizer):
    """AdamW: Adam with decoupled weight decay.

        w <- w (1 - lr weight_decay) - lr m^/(sqrt(s^) + eps)

    where m^ and s^ are the bias-corrected averages of `Adam`.

    Args:
        params: Parameters, parameter groups or (name, parameter) pairs.
        lr: Learning rate, >= 0.
        betas: Decay rates of m and s, both in [0, 1).
        eps: Term added to the denominator, >= 0.
        weight_decay: Fraction of the weight removed per unit of lr, >= 0.
        amsgrad: Whether to divide by the root of the maximum of s so far, which is stored as `max_exp_avg_sq`.
        maximize: Whether to maximize the objective, by negating the gradient but not the decay.
        foreach, fused: No effect. In torch, these arguments select an implementation; here the engine does so.
        capturable: Support CUDA graphs, see `dashpot.Options`.
        differentiable: Whether to record the step in the autograd graph.
        decay_scale: Factor that multiplies `weight_decay`: "lr" (as in torch), "schedule" (the factor of the schedule,
            without the base lr; this includes the factor of a torch scheduler) or "constant".
        options: Options common to all optimizers, see `dashpot.Options`.

    Raises:
        ArgumentError: If a value is outside its range.

    Source:
        Loshchilov and Hutter, arXiv 1711.05101; torch.optim.AdamW, whose results agree to a relative error of 1e-11 in
        float64.

    Example:
        >>> import torch, dashpot as dp
        >>> dp.AdamW([torch.zeros(1, requires_grad=True)], lr=3e-4).recipe
        Recipe(Filter(pole=0.9, slot='exp_avg'), SecondMoment(beta=0.999), DecoupledDecay(weight_decay=0.01), lr=0.0003)
    """

    preset = staticmethod(presets.adamw)
    _FIXED: ClassVar[Mapping[str, Any]] = {"decoupled_weight_decay": True}  # stored in groups, as in torch
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
        **options: Unpack[BaseOptions],
    ) -> None:
        settings = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "amsgrad": amsgrad}
        settings |= {"capturable": capturable, "decay_scale": decay_scale}
        settings |= _flags(maximize, foreach, differentiable, fused)
        super().__init__(params, settings, **options)

    def _accept(self, saved: Mapping[str, Any], own: Mapping[str, Any]) -> AcceptedGroup:
        return super()._accept({**saved, **self._FIXED}, own)  # as torch.optim.AdamW does


class NAdam(Optimizer):
    """NAdam: Adam with Nesterov momentum that grows from beta1/2 to beta1.

        mu_t = beta1 (1 - 0.96^(t momentum_decay)/2),        P_t = mu_1 ... mu_t
        v_t = (1 - mu_t)/(1 - P_t) g_t + mu_{t+1}/(1 - P_{t+1}) m_t,        w <- w - lr v_t/(sqrt(s^) + eps)

    where m and s^ are the averages of `Adam`.

    Args:
        params: Parameters, parameter groups or (name, parameter) pairs.
        lr: Learning rate, >= 0.
        betas: Decay rates of m and s, both in [0, 1).
        eps: Term added to the denominator, >= 0.
        weight_decay: Coefficient of the L2 penalty, >= 0.
        momentum_decay: Speed of the momentum's growth, >= 0.
        decoupled_weight_decay: Whether to decay the weight as `AdamW` does, instead of adding the decay to the
            gradient.
        maximize: Whether to maximize the objective, by negating the gradient but not the decay.
        foreach: No effect. In torch, this argument selects an implementation; here the engine does so.
        capturable: Support CUDA graphs, see `dashpot.Options`.
        differentiable: Whether to record the step in the autograd graph.
        options: Options common to all optimizers, see `dashpot.Options`.

    Raises:
        ArgumentError: If a value is outside its range.

    Source:
        Dozat (2016); torch.optim.NAdam, whose results agree to a relative error of 1e-11 in float64. This agreement
        requires float64 as torch's default dtype, because torch stores the product of momenta in the default dtype.
        With float32 as the default, torch's rounding error is about 1e-9.

    Example:
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
        **options: Unpack[BaseOptions],
    ) -> None:
        settings = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        settings |= {"momentum_decay": momentum_decay, "decoupled_weight_decay": decoupled_weight_decay}
        settings |= {"capturable": capturable, **_flags(maximize, foreach, differentiable)}
        super().__init__(params, settings, **options)


def _flags(maximize: bool, foreach: bool | None, differentiable: bool, *fused: bool | None) -> dict[str, bool | None]:
    """Return torch's flags with torch's keys, so that groups can be exchanged with torch in both directions."""
    flags = {"maximize": maximize, "foreach": foreach, "differentiable": differentiable}
    return {**flags, "fused": fused[0]} if fused else flags
