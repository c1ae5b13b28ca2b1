"""Points of the design space that torch.optim has no class for, and SGM, the general point."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from dashpot.constraints import Scalar
from dashpot.optimizers import presets
from dashpot.optimizers.base import Optimizer
from dashpot.optimizers.options import Options, Unpack
from dashpot.schedules import Schedule

__all__ = ["NAG", "QHM", "HeavyBall"]

Schedules = Schedule | Mapping[str, Schedule] | None


class HeavyBall(Optimizer):
    """Polyak's heavy ball: v <- pole v + g + weight_decay w, w <- w - lr v.

    The DC gain is 1/(1 - pole): the effective learning rate is lr/(1 - pole).

    Args:
        params: Parameters, groups or (name, parameter) pairs.
        lr, weight_decay: >= 0.
        pole: In [0, 1); kept in the groups under torch's key `momentum`, so that schedulers can cycle it.
        maximize: Ascend: the gradient is negated, the decay is not.
        differentiable: Record the step for autograd.
        schedule, options: See `dashpot.Optimizer`.

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

    Args:
        params, lr, pole, weight_decay, maximize, differentiable, schedule, options: As in `HeavyBall`.

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

    Args:
        params, lr, pole, weight_decay, maximize, differentiable, schedule, options: As in `HeavyBall`; lr is 1/(1 -
            pole) times a heavy ball's.
        nu: In [0, 1].
        debias: Divide by 1 - nu pole^t: a constant gradient comes out unchanged from the first step.

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
