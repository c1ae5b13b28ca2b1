"""Dependence of methods on the units of weights and loss, and the compensating settings.

The model with weights w and loss L(w) is replaced by a model with parameters u = n w, weights u/n and loss c L.
Gradients are scaled by c/n, the Hessian by c/n^2. Both models follow the same path, u = n w at every step, for

    SGD                            lr n^2/c
    Adam (eps = 0)                 lr n
    ESGD, AdaHessian (eps = 0)     lr: the step lr g/|H| has the unit of the weights
    AdaHessian, hessian_power k    lr (n^2/c)^(1 - k)
    Sophia                         lr n, gamma n, eps c/n, weight_decay/n: clipped steps are lr, others lr m/(gamma h)

and for no other learning rate. The first four rows are stated in the README of ESGD-M. The setting of decoupled weight
decay, w (1 - lr weight_decay), is unchanged if lr is unchanged. n and c are powers of two, so that rounding is
identical, and c is a power of four if its square root is needed.
"""

from functools import cache

import pytest
import torch

import dashpot as dp

STEPS, PROBING = 12, {"d_warmup": 4, "update_d_every": 5}  # products at the steps 0 to 3 and 8
UNITS = [(8.0, 1.0), (1.0, 64.0), (2.0**-10, 2.0**20)]


def normal(*shape, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


INPUTS, TARGETS = normal(16, 3, seed=1), normal(16, seed=2)
START = [normal(4, 3, seed=3), normal(4, seed=4), normal(4, seed=5)]


def network(weights):
    W, b, out = weights
    return (torch.tanh(INPUTS @ W.T + b) @ out - TARGETS).square().mean()


def quartic(weights):
    w = torch.cat([x.flatten() for x in weights])
    couplings = torch.outer(w[1:], w[:-1]).sum() / 20
    return (w**4).sum() / 4 + w.square().sum() / 2 + couplings - w.sum()


LOSSES = {"network": network, "quartic": quartic}


@cache
def original(name, loss=network):
    """Return the path in the original units."""
    return path(METHODS[name].method, METHODS[name].settings, loss)


def path(method, settings, loss, n: float | list[float] = 1.0, c=1.0):
    """Return the weights after every step in the original unit, u/n; `n` is one number or a number per tensor."""
    factors = n if isinstance(n, list) else [n] * len(START)
    params = [(w * factor).requires_grad_() for w, factor in zip(START, factors, strict=True)]
    opt = method(params, **settings)
    rows = []

    def closure():
        opt.zero_grad()
        value = c * loss([u / factor for u, factor in zip(params, factors, strict=True)])
        value.backward()
        return value

    for _ in range(STEPS):
        opt.step(closure)
        rows.append(torch.cat([(u.detach() / factor).flatten() for u, factor in zip(params, factors, strict=True)]))
    return torch.stack(rows)


def gap(one, other):
    """Return the largest distance between the paths, relative to their length."""
    start = torch.cat([w.flatten() for w in START])
    return ((one - other).abs().max() / (one - start).abs().max()).item()


SAME = 1e-12  # measured 0, since powers of two are exact; other roots or engines may round differently
OTHER = 1e-2


class Method:
    """A method with its settings and the settings that compensate for different units."""

    def __init__(self, method, settings, rule):
        self.method, self.settings, self.rule = method, settings, rule

    def scaled(self, n, c):
        return self.settings | self.rule(self.settings, n, c)


def unchanged(settings, n, c):
    return {}


METHODS = {
    "SGD": Method(dp.SGD, {"lr": 0.02, "momentum": 0.9}, lambda s, n, c: {"lr": s["lr"] * n**2 / c}),
    "Adam": Method(dp.Adam, {"lr": 0.01, "eps": 0.0}, lambda s, n, c: {"lr": s["lr"] * n}),
    "ESGD 1": Method(dp.ESGD, {"lr": 0.2, "eps": 0.0, "weight_decay": 0.01} | PROBING, unchanged),
    "ESGD 1, Gaussian": Method(
        dp.ESGD, {"lr": 0.2, "eps": 0.0, "v": 0.7, "distribution": "gaussian"} | PROBING, unchanged
    ),
    "ESGD 2": Method(dp.ESGD, {"lr": 0.2, "eps": 0.0, "version": 2, "weight_decay": 0.01} | PROBING, unchanged),
    "AdaHessian": Method(dp.AdaHessian, {"lr": 0.05, "eps": 0.0, "weight_decay": 0.01} | PROBING, unchanged),
    "AdaHessian, power 1/2": Method(
        dp.AdaHessian,
        {"lr": 0.05, "eps": 0.0, "hessian_power": 0.5} | PROBING,
        lambda s, n, c: {"lr": s["lr"] * (n**2 / c) ** 0.5},
    ),
    "Sophia": Method(
        dp.Sophia,
        {"lr": 0.02, "gamma": 0.5, "eps": 1e-6, "weight_decay": 0.1} | PROBING,
        lambda s, n, c: {
            "lr": s["lr"] * n,
            "gamma": s["gamma"] * n,
            "eps": s["eps"] * c / n,
            "weight_decay": s["weight_decay"] / n,
        },
    ),
}
LR_SEES_WEIGHTS = ("SGD", "Adam", "AdaHessian, power 1/2", "Sophia")
LR_SEES_LOSS = ("SGD", "AdaHessian, power 1/2")


@pytest.mark.diagonal
@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
@pytest.mark.parametrize("name", METHODS)
def test_rescaled_problem_with_rescaled_settings_has_the_same_path(name, loss):
    method = METHODS[name]
    expected = original(name, loss)
    assert expected.isfinite().all()
    for n, c in UNITS:
        assert gap(expected, path(method.method, method.scaled(n, c), loss, n, c)) < SAME


@pytest.mark.parametrize("name", LR_SEES_WEIGHTS)
def test_unit_of_the_weights_changes_the_path_of_methods_whose_rate_has_it(name):
    method = METHODS[name]
    assert gap(original(name), path(method.method, method.settings, network, n=8.0)) > OTHER


@pytest.mark.parametrize("name", METHODS)
def test_unit_of_the_loss_changes_the_path_of_methods_whose_rate_has_it(name):
    method = METHODS[name]
    settings = method.settings | ({"eps": method.settings["eps"] * 64} if name == "Sophia" else {})
    found = gap(original(name), path(method.method, settings, network, c=64.0))
    assert found > OTHER if name in LR_SEES_LOSS else found < SAME


@pytest.mark.parametrize("name", ["ESGD 1", "ESGD 2", "AdaHessian"])
def test_rates_scaled_as_for_adam_would_be_wrong(name):
    method = METHODS[name]
    scaled = method.settings | {"lr": method.settings["lr"] * 8}
    assert gap(original(name), path(method.method, scaled, network, n=8.0)) > OTHER


@pytest.mark.parametrize("name", ["Adam", "ESGD 1", "ESGD 2", "AdaHessian"])
def test_eps_scales_with_the_loss(name):
    method = METHODS[name]
    n, c = 8.0, 16.0
    expected = path(method.method, method.settings | {"eps": 0.1}, network)
    assert gap(expected, path(method.method, method.scaled(n, c) | {"eps": 0.1}, network, n, c)) > OTHER
    # eps has the unit of the denominator: c/n for Adam (a gradient), and c/n^2 for the other methods (a curvature).
    unit = c / n if name == "Adam" else c / n**2
    assert gap(expected, path(method.method, method.scaled(n, c) | {"eps": 0.1 * unit}, network, n, c)) < SAME


@pytest.mark.parametrize("setting", ["lr", "gamma"])
def test_sophia_needs_both_its_rate_and_its_gamma_scaled(setting):
    method = METHODS["Sophia"]
    scaled = method.scaled(8.0, 1.0) | {setting: method.settings[setting]}
    assert gap(original("Sophia"), path(method.method, scaled, network, n=8.0)) > OTHER


@pytest.mark.parametrize("name", ["ESGD 1", "ESGD 2", "AdaHessian"])
def test_unit_must_be_the_same_for_all_weights(name):
    # Each row of the Hessian mixes the units of all weights, and so does the random error of each element of a product.
    method = METHODS[name]
    mixed = path(method.method, method.settings, network, n=[8.0, 1.0, 1.0])
    assert gap(original(name), mixed) > OTHER


def test_diagonal_hessian_lets_every_weight_have_its_own_unit():
    def separate(weights):
        return sum((w**4).sum() / 4 + w.square().sum() / 2 - w.sum() for w in weights)

    for name in ("ESGD 1", "ESGD 2", "AdaHessian"):
        method = METHODS[name]
        expected = path(method.method, method.settings, separate)
        assert gap(expected, path(method.method, method.settings, separate, n=[8.0, 0.5, 1024.0])) < SAME
