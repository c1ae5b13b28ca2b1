"""Momentum methods, which are parametrized by the pole of the gradient filter."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from typing_extensions import Unpack

from dashpot.constraints import Scalar
from dashpot.optimizers import presets
from dashpot.optimizers.base import Optimizer
from dashpot.optimizers.options import Options


class HeavyBall(Optimizer):
    """Polyak's heavy ball.

        v <- pole v + g + weight_decay w
        w <- w - lr v

    The filter has DC gain 1/(1 - pole), so the effective learning rate is lr/(1 - pole).

    Args:
        params: Parameters, parameter groups or (name, parameter) pairs.
        lr: Learning rate, >= 0.
        pole: Decay rate of the velocity, in [0, 1). Parameter groups store it under torch's key `momentum`, so that
            torch's schedulers can cycle it.
        weight_decay: Coefficient of the L2 penalty, >= 0.
        options: Options common to all optimizers (`schedule`, `maximize`, `engine`, ...), see `dashpot.Options`.

    Raises:
        ArgumentError: If a value is outside its range.

    Source:
        Polyak (1964). The method is equal to `torch.optim.SGD(momentum=pole)`.

    Example:
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
        **options: Unpack[Options],
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": pole, "weight_decay": weight_decay}, **options)


class NAG(Optimizer):
    """Nesterov's accelerated gradient.

        g <- g + weight_decay w
        b <- pole b + g
        w <- w - lr (g + pole b)

    The filter has its zero at pole/(1 + pole) and DC gain 1/(1 - pole).

    Args:
        params: Parameters, parameter groups or (name, parameter) pairs.
        lr: Learning rate, >= 0.
        pole: Decay rate of the buffer, in [0, 1). Parameter groups store it under torch's key `momentum`.
        weight_decay: Coefficient of the L2 penalty, >= 0.
        options: Options common to all optimizers, see `dashpot.Options`.

    Raises:
        ArgumentError: If a value is outside its range.

    Source:
        Nesterov (1983). The method is equal to `torch.optim.SGD(momentum=pole, nesterov=True)`.

    Example:
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
        **options: Unpack[Options],
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": pole, "weight_decay": weight_decay}, **options)


class QHM(Optimizer):
    """Quasi-hyperbolic momentum: a weighted mean of the gradient and its moving average.

        g <- g + weight_decay w
        m <- pole m + (1 - pole) g
        w <- w - lr ((1 - nu) g + nu m)

    The filter has unit DC gain, so the effective learning rate is lr. With nu = 1 the direction is an exponential
    moving average, with nu = pole the filter has Nesterov's zero, and with nu = 0 the direction is the plain gradient.

    Args:
        params: Parameters, parameter groups or (name, parameter) pairs.
        lr: Learning rate, >= 0. To match a heavy ball with rate r, use r/(1 - pole).
        pole: Decay rate of the moving average, in [0, 1). Parameter groups store it under torch's key `momentum`.
        nu: Weight of the moving average, in [0, 1].
        weight_decay: Coefficient of the L2 penalty, >= 0.
        debias: Whether to divide the direction by 1 - nu pole^t, so that for a constant gradient the direction equals
            the gradient from the first step.
        options: Options common to all optimizers, see `dashpot.Options`.

    Raises:
        ArgumentError: If a value is outside its range.

    Source:
        Ma and Yarats, arXiv 1810.06801.

    Example:
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
        **options: Unpack[Options],
    ) -> None:
        settings = {"lr": lr, "momentum": pole, "nu": nu, "weight_decay": weight_decay, "debias": debias}
        super().__init__(params, settings, **options)
