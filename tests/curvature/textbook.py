"""Reference implementations of ESGD, AdaHessian and Sophia-H in float64, from their formulas.

Each class contains copies of its parameters. `step(grads, product)` takes one gradient per tensor and either None or
a pair (probes, products): one probe v and one product H v per tensor, computed at the parameters before the step.
It returns the parameters after the step. Each instance represents one parameter group: groups with different settings
need separate instances. If a gradient is None, the tensor and its counts are unchanged.

Notation: w parameter, g gradient, v probe, hv = H v, t steps and h products of this tensor, including this step.
A tensor without a product so far has an infinite denominator: averages and decay are applied, but
the gradient has no effect. To maximize, pass -g and -hv (the sign of v hv matters in Sophia).
"""

import math

import torch


def _wide(x):
    return x.detach().to(torch.float64, copy=True)


class _Textbook:
    """Base class that counts steps and products; `_update` returns the new value of one tensor."""

    def __init__(self, params):
        self.params = [_wide(p) for p in params]
        self.steps = [0] * len(self.params)
        self.products = [0] * len(self.params)
        self.m = [torch.zeros_like(p) for p in self.params]
        self.D = [torch.zeros_like(p) for p in self.params]

    def step(self, grads, product=None):
        probes, products = product if product is not None else ([None] * len(grads),) * 2
        for i, (g, v, hv) in enumerate(zip(grads, probes, products, strict=True)):
            if g is None:
                continue
            self.steps[i] += 1
            self.products[i] += hv is not None
            self.params[i] = self._update(i, _wide(g), *((None, None) if hv is None else (_wide(v), _wide(hv))))
        return [w.clone() for w in self.params]

    def _update(self, i, g, v, hv):
        raise NotImplementedError


class ESGDVersion1(_Textbook):
    """ESGD-M, first version: momentum with a free look-ahead, an average of squared products.

        m   = b1 m + (1 - b1) g
        est = (nu m + (1 - nu) g) / (1 - nu b1^t)           nu = b1 is Nesterov, nu = 1 plain momentum
        D   = b2 D + (1 - b2) hv^2                          on a product
        a   = lr (1 - lr_warmup^t)
        w   = w (1 - wd a) - a est / (sqrt(D / (1 - b2^h)) + eps)

    Source: the README of ESGD-M (Katherine Crowson) in its first version, where nu is the argument `v`.
    """

    def __init__(self, params, lr=1.0, betas=(0.9, 0.999), v=None, lr_warmup=0.99, eps=1e-4, weight_decay=0.0):
        super().__init__(params)
        self.lr, (self.b1, self.b2), self.lr_warmup, self.eps, self.wd = lr, betas, lr_warmup, eps, weight_decay
        self.nu = self.b1 if v is None else v

    def _update(self, i, g, v, hv):
        t, h = self.steps[i], self.products[i]
        self.m[i] = self.b1 * self.m[i] + (1 - self.b1) * g
        if hv is not None:
            self.D[i] = self.b2 * self.D[i] + (1 - self.b2) * hv**2
        estimate = (self.nu * self.m[i] + (1 - self.nu) * g) / (1 - self.nu * self.b1**t)
        denominator = (self.D[i] / (1 - self.b2**h)).sqrt() + self.eps if h else math.inf
        rate = self.lr * (1 - self.lr_warmup**t)
        return self.params[i] * (1 - self.wd * rate) - rate * estimate / denominator


class PlainMean(ESGDVersion1):
    """The first version with the denominator of plain ESGD: sqrt(sum of hv^2 over all products / h) + eps.

    Source: Dauphin et al., "Equilibrated adaptive learning rates for non-convex optimization", algorithm 1.
    """

    def _update(self, i, g, v, hv):
        self.b2 = 0.0  # so that D of the first version, divided by 1 - b2^h = 1, is replaced by the mean below
        if hv is not None:
            self.sums = getattr(self, "sums", {})
            self.sums[i] = self.sums.get(i, 0.0) + hv**2
            hv = (self.sums[i] / self.products[i]).sqrt()
        return super()._update(i, g, v, hv)


class ESGDVersion2(_Textbook):
    """ESGD-M, current version: Nesterov momentum, a decaying maximum of squared products, warmup counted in products.

        m   = b1 m + (1 - b1) g
        est = (b1 m + (1 - b1) g) / (1 - b1^(t + 1))
        D   = max(b2 D, hv^2)                               on a product; with b2 = 1, D never decreases
        a   = lr (1 - lr_warmup^h)
        w   = w (1 - wd a) - a est / (sqrt(D) + eps)

    Source: the repository of ESGD-M (Katherine Crowson), current version.
    """

    def __init__(self, params, lr=1.0, betas=(0.9, 0.999), lr_warmup=0.99, eps=1e-4, weight_decay=0.0):
        super().__init__(params)
        self.lr, (self.b1, self.b2), self.lr_warmup, self.eps, self.wd = lr, betas, lr_warmup, eps, weight_decay

    def _update(self, i, g, v, hv):
        t, h = self.steps[i], self.products[i]
        self.m[i] = self.b1 * self.m[i] + (1 - self.b1) * g
        if hv is not None:
            self.D[i] = torch.maximum(self.b2 * self.D[i], hv**2)
        estimate = (self.b1 * self.m[i] + (1 - self.b1) * g) / (1 - self.b1 ** (t + 1))
        denominator = self.D[i].sqrt() + self.eps if h else math.inf
        rate = self.lr * (1 - self.lr_warmup**h)
        return self.params[i] * (1 - self.wd * rate) - rate * estimate / denominator


def spatial_average(z, kind):
    """Average over the kernel window of a convolution: the dimensions 2, 3, ...

    "signed" averages z = v hv (the formula of the AdaHessian paper), "absolute" averages |z| (the authors' code),
    "none" leaves z unchanged. The authors' code averages tensors with 4 dimensions in this way (its instructive version
    also averages tensors with 3 dimensions and the rows of matrices) and rejects tensors with more dimensions.
    """
    if kind == "none" or z.dim() < 3:
        return z
    window = z.abs() if kind == "absolute" else z
    return window.mean(dim=tuple(range(2, z.dim())), keepdim=True).expand_as(z)


class AdaHessian(_Textbook):
    """Adam with the squared Hessian diagonal in place of the squared gradient.

        m = b1 m + (1 - b1) g
        z = average(v hv)                                   on a product; see `spatial_average`
        D = b2 D + (1 - b2) z^2                             on a product
        w = w (1 - lr wd) - lr (m / (1 - b1^t)) / (sqrt(D / (1 - b2^h))^power + eps)

    Source: Yao et al., "ADAHESSIAN", arXiv 2006.00719, equations of the diagonal, the spatial average and the moments;
    defaults, eps and the place of the decay from the authors' code.
    """

    def __init__(
        self,
        params,
        lr=0.15,
        betas=(0.9, 0.999),
        eps=1e-4,
        weight_decay=0.0,
        hessian_power=1.0,
        average="signed",
    ):
        super().__init__(params)
        self.lr, (self.b1, self.b2), self.eps, self.wd = lr, betas, eps, weight_decay
        self.power, self.average = hessian_power, average

    def _update(self, i, g, v, hv):
        t, h = self.steps[i], self.products[i]
        self.m[i] = self.b1 * self.m[i] + (1 - self.b1) * g
        if hv is not None:
            z = spatial_average(v * hv, self.average)
            self.D[i] = self.b2 * self.D[i] + (1 - self.b2) * z**2
        denominator = (self.D[i] / (1 - self.b2**h)).sqrt() ** self.power + self.eps if h else math.inf
        return self.params[i] * (1 - self.lr * self.wd) - self.lr * self.m[i] / (1 - self.b1**t) / denominator


class SophiaH(_Textbook):
    """Momentum over an average of the Hessian diagonal, each entry clamped to [-1, 1], without bias correction.

        m = b1 m + (1 - b1) g
        D = b2 D + (1 - b2) v hv                            on a product
        w = w (1 - lr wd) - lr clip(m / max(gamma D, eps), -1, 1)

    Where the curvature D is not positive, the step is lr times the sign of m.
    Source: Liu et al., "Sophia", arXiv 2305.14342, algorithm 3 with the Hutchinson estimator. The first version
    of the paper clips m / max(D, eps) to [-rho, rho]; this is equivalent with gamma = rho, lr = rho lr', eps = rho eps'
    and wd = wd' / rho, where primes mark the settings of the first version.
    """

    def __init__(self, params, lr, betas=(0.96, 0.99), gamma=0.01, eps=1e-12, weight_decay=0.0):
        super().__init__(params)
        self.lr, (self.b1, self.b2), self.gamma, self.eps, self.wd = lr, betas, gamma, eps, weight_decay

    def _update(self, i, g, v, hv):
        self.m[i] = self.b1 * self.m[i] + (1 - self.b1) * g
        if hv is not None:
            self.D[i] = self.b2 * self.D[i] + (1 - self.b2) * v * hv
        denominator = (self.gamma * self.D[i]).clamp_min(self.eps) if self.products[i] else math.inf
        return self.params[i] * (1 - self.lr * self.wd) - self.lr * (self.m[i] / denominator).clamp(-1, 1)
