"""Variants of Adam beyond torch.optim's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dashpot.constraints import Scalar
from dashpot.optimizers import presets
from dashpot.optimizers.base import Optimizer
from dashpot.optimizers.options import Options, Unpack
from dashpot.schedules import Schedule

__all__ = ["CenteredAdam", "QHAdam"]


Schedules = Schedule | Mapping[str, Schedule] | None


class QHAdam(Optimizer):
    """QHAdam: Adam with a share of the raw gradient above and of its square below.

        w <- w (1 - lr weight_decay) - lr ((1 - nu1) g + nu1 m^) / (sqrt((1 - nu2) g^2 + nu2 s^) + eps)

    Args:
        params: Parameters, groups or (name, parameter) pairs.
        lr, eps, weight_decay: >= 0; the decay is AdamW's.
        betas: Pair in [0, 1).
        nus: Pair in [0, 1]; (1, 1) is AdamW, (beta1, 1) Nesterov's zero.
        maximize, differentiable, schedule, options: As in `HeavyBall`.

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

    Args:
        params: Parameters, groups or (name, parameter) pairs.
        lr, eps, weight_decay: >= 0; the decay is AdamW's.
        betas: Pair in [0, 1): poles of m and of s.
        mean: What a is. "average": the mean gradient with the pole of s, in a slot of its own; the difference then is a
            variance. "direction": m itself, as in the source. It remembers less than s, so that s^ - m^^2 is negative
            after every change of the gradient, is cut at zero, and the step is m^/eps: it takes a large eps to train.
        uncentered_steps: Integer >= 0: while t is below it the root mean square is used, because s^ = a^^2 exactly at t
            = 1.
        maximize, differentiable, schedule, options: As in `HeavyBall`.

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
