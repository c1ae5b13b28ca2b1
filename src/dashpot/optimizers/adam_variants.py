"""Variants of Adam that are not in torch.optim."""

from __future__ import annotations

from typing import Any

from typing_extensions import Unpack

from dashpot.constraints import Scalar
from dashpot.optimizers import presets
from dashpot.optimizers.base import Optimizer
from dashpot.optimizers.options import Options


class QHAdam(Optimizer):
    """QHAdam: Adam with quasi-hyperbolic averages in the numerator and the denominator.

        m <- beta1 m + (1 - beta1) g,     m^ = m/(1 - beta1^t)
        s <- beta2 s + (1 - beta2) g^2,   s^ = s/(1 - beta2^t)
        w <- w (1 - lr weight_decay) - lr ((1 - nu1) g + nu1 m^) / (sqrt((1 - nu2) g^2 + nu2 s^) + eps)

    Args:
        params: Parameters, parameter groups or (name, parameter) pairs.
        lr: Learning rate, >= 0.
        betas: Decay rates of the two moving averages, both in [0, 1).
        nus: Weights of the two moving averages, both in [0, 1]. (1, 1) is AdamW; with (beta1, 1) the gradient filter
            has Nesterov's zero.
        eps: Term added to the denominator, >= 0.
        weight_decay: Decoupled weight decay as in `AdamW`, >= 0.
        options: Options common to all optimizers, see `dashpot.Options`.

    Raises:
        ArgumentError: If a value is outside its range.

    Source:
        Ma and Yarats, arXiv 1810.06801.

    Example:
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
        **options: Unpack[Options],
    ) -> None:
        settings = {"lr": lr, "betas": betas, "nus": nus, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, settings, **options)


class CenteredAdam(Optimizer):
    """Adam with the gradient's standard deviation in place of its root mean square.

        m <- beta1 m + (1 - beta1) g,   s <- beta2 s + (1 - beta2) g^2,   a <- beta2 a + (1 - beta2) g
        w <- w (1 - lr weight_decay) - lr m^ / (sqrt(max(s^ - a^^2, 0)) + eps)

    where m^, s^ and a^ are bias corrected as in Adam.

    Args:
        params: Parameters, parameter groups or (name, parameter) pairs.
        lr: Learning rate, >= 0.
        betas: Decay rates of m and of s, both in [0, 1).
        eps: Term added to the denominator, >= 0.
        weight_decay: Decoupled weight decay as in `AdamW`, >= 0.
        mean: The mean a that is subtracted. "average" means the moving average of the gradient with the decay rate of
            s, stored in the separate slot `grad_avg`; s^ - a^^2 is then a variance. "direction" means m, as in the
            source. Because m has a shorter memory than s, s^ - m^^2 is negative after every change of the gradient and
            is then clamped to zero, so that the step is m^/eps. Training then requires a large eps.
        uncentered_steps: Number of the first step with a centered denominator, an integer >= 0. Earlier steps use the
            root mean square, because s^ = a^^2 at t = 1.
        options: Options common to all optimizers, see `dashpot.Options`.

    Raises:
        ArgumentError: If a value is outside its range.

    Source:
        The TTIC 31230 lecture notes.

    Example:
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
        **options: Unpack[Options],
    ) -> None:
        settings = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "mean": mean}
        super().__init__(params, {**settings, "uncentered_steps": uncentered_steps}, **options)
