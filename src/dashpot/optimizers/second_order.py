"""Second-order methods: a filtered gradient over a denominator learned from Hessian-vector products."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dashpot.constraints import POLE, Scalar, check, shown
from dashpot.curvature.hvp_options import Products
from dashpot.errors import ArgumentError
from dashpot.optimizers import presets
from dashpot.optimizers.options import BaseOptions, Unpack
from dashpot.optimizers.second_order_base import SecondOrder
from dashpot.schedules import Schedule
from dashpot.utils.scalars import read

__all__ = ["ESGD", "AdaHessian", "Sophia"]

Schedules = Schedule | Mapping[str, Schedule] | None


class ESGD(SecondOrder):
    """ESGD-M: quasi-hyperbolic momentum over the row norms of the Hessian, with a warm-up of the learning rate.

        m = beta1 m + (1 - beta1) g,        e = (v m + (1 - v) g)/(1 - v beta1^t)
        w <- w (1 - a weight_decay) - a e/d

    Every few steps a random probe u gives the product H u, whose squares estimate the squared norms of the Hessian's
    rows, diag(H^2); d is their root. For a diagonal Hessian that is |H_ii|, and the step Newton's.

        version 1:  D = beta2 D + (1 - beta2) (H u)^2,   d = sqrt(D/(1 - beta2^h)) + eps,   a = lr (1 - lr_warmup^t)
        version 2:  D = max(beta2 D, (H u)^2),           d = sqrt(D) + eps,                 a = lr (1 - lr_warmup^h)

    t counts steps and h products. The learning rate has no unit: for eps = 0 the path stays the same when the loss, or
    all weights by one factor, are measured in other units. Rates from 1e-3 to 1 are usual.

    Args:
        params: Parameters, groups or (name, parameter) pairs.
        lr, eps, weight_decay: >= 0. eps is in units of curvature; the decay is AdamW's.
        betas: Pair in [0, 1); beta2 counts products, and may be 1 in version 2: the maximum of all times.
        v: In [0, 1]: share of the average in the direction. None is beta1, Nesterov's momentum; 1 is the average alone;
            (0.999, 0.999) with v = 0.7 is quasi-hyperbolic momentum. Version 2 has none: it is beta1.
        lr_warmup: In [0, 1).
        update_d_every, d_warmup: Integers >= 1: a product in each of the first `d_warmup` steps, then every
            `update_d_every`.
        version: 1 or 2.
        probe, distribution, relative_step, process_group: How products are taken, see
            `dashpot.curvature.ProbingOptions`; `seed`, among the options, seeds the probes.
        maximize: Ascend: the gradient is negated, the decay is not.
        differentiable: Record the step for autograd; products count as constants.
        schedule, options: See `dashpot.Optimizer`; not `capturable`.

    Raises `ArgumentError` for a value outside its range, `CurvatureError` where a product cannot be taken.

    Source: Crowson, ESGD-M (its documentation and later version); Dauphin et al., arXiv 1502.04390; Ma and Yarats,
    arXiv 1810.06801.

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
        maximize: bool = False,
        differentiable: bool = False,
        schedule: Schedules = None,
        **options: Unpack[BaseOptions],
    ) -> None:
        settings = {"lr": lr, "betas": betas, "v": v, "lr_warmup": lr_warmup, "eps": eps, "weight_decay": weight_decay}
        settings |= {"version": version, "maximize": maximize, "differentiable": differentiable}
        probing = {"update_d_every": update_d_every, "d_warmup": d_warmup, "probe": probe, "distribution": distribution}
        probing |= {"relative_step": relative_step, "process_group": process_group}
        super().__init__(params, settings, schedule, probing, **options)

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
    """AdaHessian: Adam with Hutchinson's estimate of the Hessian's diagonal in place of the gradient.

        m = beta1 m + (1 - beta1) g
        z = mean over the kernel's window of (u H u),    D = beta2 D + (1 - beta2) z^2       (at a product)
        w <- w (1 - lr weight_decay) - lr m^/(sqrt(D^)^hessian_power + eps)

    with m^ = m/(1 - beta1^t), D^ = D/(1 - beta2^h), t the steps and h the products so far.

    Args:
        params: Parameters, groups or (name, parameter) pairs.
        lr, eps, weight_decay: >= 0; the decay is AdamW's.
        betas: Pair in [0, 1); beta2 counts products.
        hessian_power: In [0, 1]: 1 is Newton's scaling, 0 plain gradient descent.
        spatial_averaging: Average u H u over the dimensions from the third on, the window of a convolution's kernel.
            The average is of the signed estimate, as in the paper's formula; the authors' code averages its absolute
            value.
        update_d_every, d_warmup: As in `ESGD`; 1, a product at every step, is the paper's. Others' code with rarer
            products takes the last estimate in again on the steps between; here nothing is taken in on those.
        probe, distribution, relative_step, process_group, maximize, differentiable, schedule, options: As in `ESGD`.

    Raises `ArgumentError` for a value outside its range, `CurvatureError` where a product cannot be taken.

    Source: Yao et al., arXiv 2006.00719.

    >>> import torch, dashpot as dp
    >>> dp.diff(dp.AdamW([torch.zeros(1)], weight_decay=0.0), dp.AdaHessian([torch.zeros(1)], lr=1e-3)).rows[1][2]
    Curvature(beta=0.999, eps=0.0001, estimate='diagonal', accumulator='squares', power=None, gamma=None, spatial=True)
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
        maximize: bool = False,
        differentiable: bool = False,
        schedule: Schedules = None,
        **options: Unpack[BaseOptions],
    ) -> None:
        settings = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "hessian_power": hessian_power}
        settings |= {"spatial_averaging": spatial_averaging, "maximize": maximize, "differentiable": differentiable}
        probing = {"update_d_every": update_d_every, "d_warmup": d_warmup, "probe": probe, "distribution": distribution}
        probing |= {"relative_step": relative_step, "process_group": process_group}
        super().__init__(params, settings, schedule, probing, **options)


class Sophia(SecondOrder):
    """Sophia-H: the averaged gradient over the averaged diagonal of the Hessian, every element cut at 1.

        m = beta1 m + (1 - beta1) g
        h = beta2 h + (1 - beta2) u H u                                                      (at a product)
        w <- w (1 - lr weight_decay) - lr clip(m/max(gamma h, eps), -1, 1)

    Neither average is bias corrected. Where the curvature is negative or small the step is lr times the sign of m, so
    lr bounds every element's step. `maximize` negates the Hessian with the gradient.

    Args:
        params: Parameters, groups or (name, parameter) pairs.
        lr, eps, weight_decay: >= 0; the decay is AdamW's.
        betas: Pair in [0, 1); beta2 counts products.
        gamma: >= 0: the smaller, the more elements are cut; 0 is sign descent.
        update_d_every, d_warmup: As in `ESGD`.
        probe, distribution, relative_step, process_group, maximize, differentiable, schedule, options: As in `ESGD`.

    Raises `ArgumentError` for a value outside its range, `CurvatureError` where a product cannot be taken.

    Source: Liu et al., arXiv 2305.14342; its first version cuts m/max(h, eps') at rho with the rate lr', which is this
    with gamma = rho, lr = rho lr', eps = rho eps' and weight_decay/rho.

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
        maximize: bool = False,
        differentiable: bool = False,
        schedule: Schedules = None,
        **options: Unpack[BaseOptions],
    ) -> None:
        settings = {"lr": lr, "betas": betas, "gamma": gamma, "eps": eps, "weight_decay": weight_decay}
        settings |= {"maximize": maximize, "differentiable": differentiable}
        probing = {"update_d_every": update_d_every, "d_warmup": d_warmup, "probe": probe, "distribution": distribution}
        probing |= {"relative_step": relative_step, "process_group": process_group}
        super().__init__(params, settings, schedule, probing, **options)
