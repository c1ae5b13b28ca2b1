"""Second-order methods, which divide a filtered gradient by a curvature estimate from Hessian-vector products."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from typing_extensions import Unpack

from dashpot.constraints import POLE, Scalar, check, shown
from dashpot.curvature.hvp_options import Products
from dashpot.errors import ArgumentError
from dashpot.optimizers import presets
from dashpot.optimizers.options import Options
from dashpot.optimizers.second_order_base import SecondOrder
from dashpot.utils.scalars import read


class ESGD(SecondOrder):
    """ESGD-M: quasi-hyperbolic momentum divided by the row norms of the Hessian, with warm-up of the learning rate.

        m = beta1 m + (1 - beta1) g,        e = (v m + (1 - v) g)/(1 - v beta1^t)
        w <- w (1 - a weight_decay) - a e/d

    A Hessian-vector product H u with a random probe u is computed every few steps. Its elementwise square is an
    estimate of diag(H^2), the squared norms of the Hessian's rows, and d is the root of the average of these estimates.
    For a diagonal Hessian, d is |H_ii|, and the step is a Newton step.

        version 1:  D = beta2 D + (1 - beta2) (H u)^2,   d = sqrt(D/(1 - beta2^h)) + eps,   a = lr (1 - lr_warmup^t)
        version 2:  D = max(beta2 D, (H u)^2),           d = sqrt(D) + eps,                 a = lr (1 - lr_warmup^h)

    Here t is the number of steps, and h is the number of Hessian-vector products. Version 0 is version 1 with the
    denominator of plain ESGD, in which D is the mean over all products:

        version 0:  D = D + ((H u)^2 - D)/h,             d = sqrt(D) + eps,                 a = lr (1 - lr_warmup^t)

    The learning rate is dimensionless: with eps = 0 the trajectory depends neither on the units of the loss nor on a
    common scale of the weights. Typical learning rates are 1e-3 to 1.

    Args:
        params: Parameters, parameter groups or (name, parameter) pairs.
        lr: Learning rate, >= 0.
        betas: Decay rates of m (per step) and D (per Hessian-vector product), both in [0, 1). In version 2, betas[1]
            may be 1, so that D is the maximum over all Hessian-vector products.
        v: Weight of the moving average in the direction, in [0, 1]. None means beta1, which is Nesterov momentum; 1
            means the moving average alone; 0.7 with betas[0] = 0.999 is the default of quasi-hyperbolic momentum. It
            must be None in version 2, which uses beta1.
        lr_warmup: Decay rate of the learning-rate warm-up, in [0, 1). 0 disables the warm-up.
        eps: Term added to d, >= 0, in units of curvature.
        weight_decay: Decoupled weight decay as in `AdamW`, >= 0.
        update_d_every: Number of steps between Hessian-vector products, an integer >= 1.
        d_warmup: Number of initial steps that all compute a Hessian-vector product, an integer >= 1.
        version: 1 or 2, the versions of ESGD-M, or 0, in which betas[1] has no effect. Plain ESGD is version 0 without
            momentum and warm-up: betas=(0, 0), lr_warmup=0.
        probe, distribution, relative_step, process_group: Options for computing the Hessian-vector products, see
            `dashpot.curvature.ProbingOptions`.
        options: Options common to all optimizers, see `dashpot.Options`; `capturable` must be False. `seed` is also the
            seed of the probes. With `differentiable=True`, Hessian-vector products are treated as constants.

    Raises:
        ArgumentError: If a value is outside its range.
        CurvatureError: If a Hessian-vector product cannot be computed.

    Source:
        Crowson, ESGD-M (its documentation and later version); Dauphin et al., arXiv 1502.04390; Ma and Yarats,
        arXiv 1810.06801.

    Example:
        >>> import torch, dashpot as dp
        >>> w = torch.tensor([1.0, 1.0], requires_grad=True)
        >>> opt = dp.ESGD([w], lr=1.0, betas=(0.0, 0.999), lr_warmup=0.0, eps=0.0)
        >>> opt.backward((w * w * torch.tensor([1.0, 1000.0])).sum()); opt.step(); w.tolist()
        [0.0, 0.0]
    """

    preset = staticmethod(presets.esgd)

    def __init__(
        self,
        params: Any,
        lr: Scalar = 1.0,
        betas: tuple[Scalar, Scalar] = (0.9, 0.999),
        v: Scalar | None = None,
        lr_warmup: Scalar = 0.99,
        eps: Scalar = 1e-4,
        weight_decay: Scalar = 0.0,
        update_d_every: int = 10,
        d_warmup: int = 20,
        *,
        version: int = 1,
        probe: str | Products = "auto",
        distribution: str = "rademacher",
        relative_step: float | None = None,
        process_group: Any = None,
        **options: Unpack[Options],
    ) -> None:
        settings = {"lr": lr, "betas": betas, "v": v, "lr_warmup": lr_warmup, "eps": eps, "weight_decay": weight_decay}
        settings["version"] = version
        probing = {"update_d_every": update_d_every, "d_warmup": d_warmup, "probe": probe, "distribution": distribution}
        probing |= {"relative_step": relative_step, "process_group": process_group}
        super().__init__(params, settings, probing, **options)

    def _check_settings(self, settings: Mapping[str, Any]) -> None:
        version, betas = settings.get("version"), settings.get("betas")
        if _is_two(version) and isinstance(betas, (tuple, list)) and len(betas) == 2 and _is_one(read(betas[1])):
            check(type(self).__name__, "betas[0]", betas[0], POLE)
            settings = {name: value for name, value in settings.items() if name != "betas"}
        super()._check_settings(settings)
        if _is_two(version) and settings.get("v") is not None:
            raise ArgumentError(f"{type(self).__name__}: v must be None in version 2, got {shown(settings['v'])}.")


def _is_two(value: Any) -> bool:
    return isinstance(value, int) and value == 2


def _is_one(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value == 1


class AdaHessian(SecondOrder):
    """AdaHessian: Adam with Hutchinson's estimate of the Hessian's diagonal in the denominator.

        m = beta1 m + (1 - beta1) g
        z = mean over the kernel's window of (u H u),    D = beta2 D + (1 - beta2) z^2       (at each product)
        w <- w (1 - lr weight_decay) - lr m^/(sqrt(D^)^hessian_power + eps)

    where m^ = m/(1 - beta1^t) and D^ = D/(1 - beta2^h) after t steps and h Hessian-vector products H u with random
    probes u.

    Args:
        params: Parameters, parameter groups or (name, parameter) pairs.
        lr: Learning rate, >= 0.
        betas: Decay rates of m (per step) and D (per Hessian-vector product), both in [0, 1).
        eps: Term added to the denominator, >= 0.
        weight_decay: Decoupled weight decay as in `AdamW`, >= 0.
        hessian_power: Exponent of the curvature, in [0, 1]. 1 means Newton's scaling, and 0 means plain gradient
            descent.
        spatial_averaging: Whether to average u H u over the third and later dimensions, which form the window of a
            convolution kernel. The signed estimate is averaged, as in the paper's formula, whereas the authors' code
            averages its absolute value.
        update_d_every: Number of steps between Hessian-vector products, an integer >= 1. The paper computes a product
            at every step. For larger intervals, D changes only in steps with a product, whereas other implementations
            reuse the last estimate at every step.
        d_warmup: Number of initial steps that all compute a Hessian-vector product, an integer >= 1.
        probe, distribution, relative_step, process_group: Options for computing the Hessian-vector products, see
            `dashpot.curvature.ProbingOptions`.
        options: Options common to all optimizers, see `dashpot.Options`; `capturable` must be False.

    Raises:
        ArgumentError: If a value is outside its range.
        CurvatureError: If a Hessian-vector product cannot be computed.

    Source:
        Yao et al., arXiv 2006.00719.

    Example:
        >>> import torch, dashpot as dp
        >>> adamw, ours = dp.AdamW([torch.zeros(1)], weight_decay=0.0), dp.AdaHessian([torch.zeros(1)], lr=1e-3)
        >>> dp.diff(adamw, ours).rows[1][2]
        Curvature(beta=0.999, eps=0.0001, estimate='diagonal', accumulator='squares', power=None, gamma=None,
                  spatial=True)
    """

    preset = staticmethod(presets.adahessian)

    def __init__(
        self,
        params: Any,
        lr: Scalar = 0.15,
        betas: tuple[Scalar, Scalar] = (0.9, 0.999),
        eps: Scalar = 1e-4,
        weight_decay: Scalar = 0.0,
        hessian_power: Scalar = 1.0,
        *,
        spatial_averaging: bool = True,
        update_d_every: int = 1,
        d_warmup: int = 1,
        probe: str | Products = "auto",
        distribution: str = "rademacher",
        relative_step: float | None = None,
        process_group: Any = None,
        **options: Unpack[Options],
    ) -> None:
        settings = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "hessian_power": hessian_power}
        settings["spatial_averaging"] = spatial_averaging
        probing = {"update_d_every": update_d_every, "d_warmup": d_warmup, "probe": probe, "distribution": distribution}
        probing |= {"relative_step": relative_step, "process_group": process_group}
        super().__init__(params, settings, probing, **options)


class Sophia(SecondOrder):
    """Sophia-H: the averaged gradient divided by the averaged diagonal of the Hessian, clipped elementwise.

        m = beta1 m + (1 - beta1) g
        h = beta2 h + (1 - beta2) u H u                                                      (at each product)
        w <- w (1 - lr weight_decay) - lr clip(m/max(gamma h, eps), -1, 1)

    Neither m nor h is bias corrected. For elements with negative or small curvature, the step is lr times the sign of
    m; no element of a step exceeds lr. `maximize` negates the Hessian together with the gradient.

    Args:
        params: Parameters, parameter groups or (name, parameter) pairs.
        lr: Learning rate, >= 0.
        betas: Decay rates of m (per step) and h (per Hessian-vector product), both in [0, 1).
        gamma: Scale of the curvature, >= 0. With smaller values, more elements are clipped; 0 means sign descent.
        eps: Lower bound on gamma h, >= 0.
        weight_decay: Decoupled weight decay as in `AdamW`, >= 0.
        update_d_every: Number of steps between Hessian-vector products, an integer >= 1.
        d_warmup: Number of initial steps that all compute a Hessian-vector product, an integer >= 1.
        probe, distribution, relative_step, process_group: Options for computing the Hessian-vector products, see
            `dashpot.curvature.ProbingOptions`.
        options: Options common to all optimizers, see `dashpot.Options`; `capturable` must be False.

    Raises:
        ArgumentError: If a value is outside its range.
        CurvatureError: If a Hessian-vector product cannot be computed.

    Source:
        Liu et al., arXiv 2305.14342. The first version of the paper clips m/max(h, eps') at rho and uses the rate lr'.
        This is equivalent with gamma = rho, lr = rho lr', eps = rho eps' and weight_decay/rho.

    Example:
        >>> import torch, dashpot as dp
        >>> dp.Sophia([torch.zeros(1)], lr=1e-3).recipe.stages[2]
        ClipElements(limit=1.0)
    """

    preset = staticmethod(presets.sophia)

    def __init__(
        self,
        params: Any,
        lr: Scalar = 1e-3,
        betas: tuple[Scalar, Scalar] = (0.96, 0.99),
        gamma: Scalar = 0.01,
        eps: Scalar = 1e-12,
        weight_decay: Scalar = 0.1,
        *,
        update_d_every: int = 10,
        d_warmup: int = 1,
        probe: str | Products = "auto",
        distribution: str = "gaussian",
        relative_step: float | None = None,
        process_group: Any = None,
        **options: Unpack[Options],
    ) -> None:
        settings = {"lr": lr, "betas": betas, "gamma": gamma, "eps": eps, "weight_decay": weight_decay}
        probing = {"update_d_every": update_d_every, "d_warmup": d_warmup, "probe": probe, "distribution": distribution}
        probing |= {"relative_step": relative_step, "process_group": process_group}
        super().__init__(params, settings, probing, **options)
