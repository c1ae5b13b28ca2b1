"""ESGD, AdaHessian and Sophia against textbook implementations with the same draws.

In each test, both implementations use the gradients and products at the optimizer's weights, so errors cannot compound.
The tolerance of 1e-12 max(1, |w|) in float64 allows for about 40 steps with a few rounding errors each."""

from typing import Any

import pytest
import torch
from curvature.second_order_support import (
    batch,
    error,
    exact,
    exact_forward,
    leaves,
    probes_of,
    quartic,
    residual,
    scalar_weights,
    take_step,
    weights,
)
from curvature_methods_support import CASES, DOUBLE, EVERY_METHOD, ORACLES, STEPS, Timetable, identity

import dashpot as dp
from dashpot.schedules import Cosine


class Twin:
    """A dashpot optimizer with two groups and a textbook method for each group; settings use dashpot's names."""

    def __init__(self, name, first, second, probing, start=weights, **changes):
        cls, oracle, fixed = ORACLES[name]
        self.params = start()
        halves = self.params[:2], self.params[2:]
        groups = [{"params": halves[0]}, {"params": halves[1], **second}]
        self.optimizer = cls(groups, **first, **fixed, **probing, **changes)
        self.oracles = [
            oracle(half, **_textbook_names({**_shared_defaults(name), **first, **more}))
            for half, more in zip(halves, ({}, second), strict=True)
        ]
        self.distribution = probing.get("distribution", "gaussian" if name == "Sophia" else "rademacher")
        self.seed = probing.get("seed", 0)
        group = self.optimizer.probing
        self.timetable = Timetable(group.update_d_every, group.d_warmup)
        self.products = 0

    def probes(self):
        return probes_of(self.optimizer, self.products, self.distribution, self.seed)

    def oracle_step(self, loss, has_product, present=(True,) * 4, signs=(1, 1), exact=exact):
        """Return the textbook weights after a step with the current gradients and products."""
        probes, points = self.probes(), [p for p, here in zip(self.params, present, strict=True) if here]
        chosen = [v for v, here in zip(probes, present, strict=True) if here]

        def of_present(values):
            values = iter(values)
            return loss([next(values) if here else p.detach() for p, here in zip(self.params, present, strict=True)])

        found = [iter(values) for values in exact(of_present, points, chosen)]
        grads, products = ([next(values) if here else None for here in present] for values in found)
        self.products += has_product
        after = []
        for oracle, part, sign in zip(self.oracles, (slice(0, 2), slice(2, 4)), signs, strict=True):
            mine, hv = ([None if x is None else sign * x for x in values[part]] for values in (grads, products))
            after += oracle.step(mine, (probes[part], hv) if has_product else None)
        return after

    def counts(self):
        """Return (steps, products) of each tensor according to the textbook method."""
        steps = [n for oracle in self.oracles for n in oracle.steps]
        return steps, [n for oracle in self.oracles for n in oracle.products]


def _shared_defaults(name):
    return {"weight_decay": 0.1, "lr": 1e-3} if name == "Sophia" else {}


def _textbook_names(settings):
    """Convert settings to the names of the textbook classes."""
    settings = {key: value for key, value in settings.items() if key != "maximize"}  # negated for the textbook method
    if "spatial_averaging" in settings:
        settings["average"] = "signed" if settings.pop("spatial_averaging") else "none"
    return settings


SHORT = {"d_warmup": 3, "update_d_every": 4}


def residual_at(k):
    return lambda values: residual(values, batch(k))


FAST = (0, 2, 4, 6, 7, 9, 11)  # of each method the default or the most different settings of two groups


@pytest.mark.parametrize(
    "case",
    [pytest.param(case, marks=() if i in FAST else pytest.mark.slow) for i, case in enumerate(CASES)],
    ids=identity,
)
def test_method_matches_the_textbook(case):
    twin = Twin(*case)
    for k in range(STEPS):
        due = twin.timetable.due(k)
        assert twin.optimizer.should_create_graph() == due, f"step {k}"
        expected = twin.oracle_step(residual_at(k), due, exact=exact_forward if k % 7 == 0 else exact)
        take_step("backward", twin.optimizer, [lambda k=k: residual(twin.params, batch(k))])
        assert error(twin.params, expected) < DOUBLE, f"step {k}"
    assert twin.optimizer.curvature_stats.products == twin.products
    assert twin.products < STEPS or twin.timetable.every == 1
    start = weights()
    assert all(not torch.equal(p, w) for p, w in zip(twin.params, start, strict=True))


@EVERY_METHOD
def test_maximize_negates_gradient_and_product_but_not_the_decay(name):
    twin = Twin(name, {"lr": 0.02, "weight_decay": 0.1}, {"weight_decay": 0.5}, SHORT, maximize=True)
    for k in range(16):
        expected = twin.oracle_step(residual_at(k), twin.timetable.due(k), signs=(-1, -1))
        take_step("backward", twin.optimizer, [lambda k=k: residual(twin.params, batch(k))])
        assert error(twin.params, expected) < DOUBLE, f"step {k}"


def test_maximize_in_one_group_only():
    twin = Twin("Sophia", {"lr": 0.02}, {"maximize": True}, {"update_d_every": 3})
    for k in range(20):
        expected = twin.oracle_step(residual_at(k), twin.timetable.due(k), signs=(1, -1))
        take_step("backward", twin.optimizer, [lambda k=k: residual(twin.params, batch(k))])
        assert error(twin.params, expected) < DOUBLE


@EVERY_METHOD
def test_schedule_changes_the_learning_rate(name):
    twin = Twin(name, {"lr": 0.05}, {"lr": 0.02}, SHORT, schedule=Cosine(16, floor=0.1))
    for k in range(16):
        for group, oracle in enumerate(twin.oracles):
            oracle.lr = twin.optimizer.current_lr(group)
        expected = twin.oracle_step(residual_at(k), twin.timetable.due(k))
        take_step("backward", twin.optimizer, [lambda k=k: residual(twin.params, batch(k))])
        assert error(twin.params, expected) < DOUBLE
    assert twin.optimizer.current_lr(0) < 0.5 * 0.05


@EVERY_METHOD
def test_settings_may_change_between_steps(name):
    """lr, eps, decay and betas are read at each step; entries of averages keep their weights."""
    twin = Twin(name, {"lr": 0.02, "betas": (0.8, 0.9)}, {}, {"d_warmup": 2, "update_d_every": 3})
    squares = name in ("ESGD-1", "AdaHessian")
    share = 0.0  # sum of the weights of all products in the average
    for k in range(18):
        if k in (5, 12):
            for group, oracle in zip(twin.optimizer.param_groups, twin.oracles, strict=True):
                b1, b2 = 0.8, 0.95 if k == 5 else 0.6
                if name == "Sophia":  # no bias correction: the first beta may change as well
                    b1 = 0.6
                group.update(lr=0.3 / k, eps=0.1 / k, weight_decay=1.0 / k, betas=(b1, b2))
                oracle.lr, oracle.eps, oracle.wd, oracle.b1, oracle.b2 = 0.3 / k, 0.1 / k, 1.0 / k, b1, b2
        due = twin.timetable.due(k)
        if squares and due:
            share = twin.oracles[0].b2 * share + 1 - twin.oracles[0].b2
        if squares:  # the textbook divides by 1 - b2^h, which is correct only for a constant b2
            for oracle in twin.oracles:
                _correct_by(oracle, share)
        expected = twin.oracle_step(residual_at(k), due)
        take_step("backward", twin.optimizer, [lambda k=k: residual(twin.params, batch(k))])
        assert error(twin.params, expected) < DOUBLE, f"step {k}"


class _Correction(float):
    """Return the beta2 for which 1 - b2^h is the given value."""

    share = 0.0

    def __pow__(self, *_: Any) -> Any:
        return 1 - self.share


def _correct_by(oracle, share):
    beta = _Correction(oracle.b2)
    beta.share = share
    oracle.b2 = beta


def late_loss(twin, present):
    """Return the loss at the optimizer's parameters, where absent parameters are constant."""
    return lambda values: quartic([p if here else p.detach() for p, here in zip(values, present, strict=True)])


@pytest.mark.diagonal
@pytest.mark.parametrize("way", ["backward", "graph", "closure", "curvature_step"])
@EVERY_METHOD
def test_late_parameter_is_not_updated_before_its_first_product(name, way):
    """The first gradient is in step 7, without a scheduled product. Therefore a product is forced: with a closure in
    the same step, otherwise in the next step. Until then, only decay is applied."""
    settings = {"lr": 0.02, "weight_decay": 0.1}
    twin = Twin(name, settings, {}, {"d_warmup": 2, "update_d_every": 10}, lambda: leaves((3, 2), (4,), (2,), ()))
    first, forced = 7, 7 if way == "closure" else 8
    start, taken = twin.params[2].detach().clone(), []
    for k in range(22):
        present = (True, True, k >= first, k >= first)
        due = twin.timetable.due(k, forced=k == forced)
        expected = twin.oracle_step(quartic, due, present)
        before = twin.optimizer.curvature_stats.products
        take_step(way, twin.optimizer, [lambda present=present: late_loss(twin, present)(twin.params)])
        taken += [k] * (twin.optimizer.curvature_stats.products - before)
        assert error(twin.params, expected) < DOUBLE, f"step {k}"
        if k < first:
            assert torch.equal(twin.params[2], start)
            assert not twin.optimizer.state.get(twin.params[2])
        if k == first < forced:
            rate = 0.0 if name == "ESGD-2" else twin.oracles[1].lr
            rate *= 1 - 0.99 if name in ("ESGD-0", "ESGD-1") else 1.0  # warm-up factor of the first step
            assert error([twin.params[2]], [start * (1 - 0.1 * rate)]) < DOUBLE
    assert taken == [0, 1, *range(forced, 22, 10)]
    counted = twin.counts()
    for i, p in enumerate(twin.params):
        state = twin.optimizer.state[p]
        assert (state["step"], state["products"]) == (counted[0][i], counted[1][i])


@pytest.mark.parametrize("way", ["backward", "graph", "closure", "curvature_step"])
def test_late_parameter_gets_the_whole_product_from_micro_batches(way):
    """The first gradient of a parameter must not cause a product that covers only the remaining micro-batches."""
    a, b = leaves((3,), (2,))
    optimizer = dp.AdaHessian([a, b], lr=0.1, betas=(0.0, 0.0), d_warmup=1, update_d_every=10)
    taken = {a: 0, b: 0}
    for k in range(3):
        # The Hessian is diagonal: with Rademacher probes, v H v equals the second derivative.
        curvature = {p: 12 * p.detach() ** 2 for p in (a, b)}
        take_step(way, optimizer, [lambda k=k: ((a**4).sum() + ((b**4).sum() if k else 0.0)) / 4] * 4)
        for p, count in taken.items():
            taken[p] = int(optimizer.state[p]["products"]) if p in optimizer.state else 0
            if taken[p] > count:
                assert error([optimizer.state[p]["hess_sq"].sqrt()], [curvature[p]]) < DOUBLE, f"step {k}"
    assert list(taken.values()) == [2, 1]


def test_parameter_with_intermittent_gradients_receives_a_product():
    """A parameter without a gradient in forced steps eventually receives a product."""
    a, b = leaves((3,), (2,))
    start = b.detach().clone()
    optimizer = dp.ESGD([a, b], lr=0.1, d_warmup=1, update_d_every=10)
    for k in range(40):
        take_step("backward", optimizer, [lambda k=k: quartic([a, b] if k % 2 else [a])])
    assert not torch.equal(b, start)
    assert optimizer.state[b]["products"] > 0


def test_frozen_parameter_costs_no_products():
    a, b = leaves((3,), (2,))
    optimizer = dp.ESGD([a, b], lr=0.1, d_warmup=1, update_d_every=10)
    for k in range(31):
        if k == 3:  # the only gradient of the parameter is in a step without a product
            take_step("backward", optimizer, [lambda: quartic([a, b])])
            b.requires_grad_(False)
        else:
            take_step("backward", optimizer, [lambda: quartic([a])])
    assert optimizer.curvature_stats.products == 4


RECORDED = [x.detach() for x in leaves(*[(30,)] * 82, seed=3)]  # alternate gradients and products


@pytest.mark.diagonal
@pytest.mark.parametrize(
    ("dtype", "rounding", "bound"),
    [
        # float32: 40 steps with about ten rounding errors of 6e-8, for weights of up to 4; the state is also float32.
        (torch.float32, "nearest", 40 * 10 * 2.0**-24 * 4),
        # bfloat16: the step is computed in float32, then each step rounds a weight of up to 4 by half a unit of 2^-7.
        (torch.bfloat16, "nearest", 40 * 2.0**-9 * 4),
        (torch.bfloat16, "stochastic", 40 * 2.0**-8 * 4),
        # Kahan: one rounding to read the weight, and 40 roundings of the sum of two bfloat16 numbers.
        (torch.bfloat16, "kahan", 2.0**-8 * 4),
    ],
    ids=str,
)
@EVERY_METHOD
def test_half_precision_weights_stay_close_to_float32(name, dtype, rounding, bound):
    cls, _, fixed = ORACLES[name]
    # Numbers that are exact in every dtype, so that both runs receive the same values.
    given = [x.to(torch.bfloat16) for x in RECORDED]
    start, step = given[0], 0

    def products(params, probes):
        del params
        # A Hessian of size 1 to 3, so that no denominator is small and errors are not magnified.
        hessian = 1 + given[2 * step + 1].abs().clamp_max(2)
        return [hessian.to(v.dtype) * v for v in probes]

    runs = []
    for kind, how in ((torch.float64, "nearest"), (dtype, rounding)):
        w = start.to(kind, copy=True).requires_grad_()
        options = {"probe": products, "distribution": "rademacher", "rounding": how, "d_warmup": 1}
        optimizer = cls([w], lr=0.05, weight_decay=0.01, update_d_every=3, **fixed, **options)
        for step in range(40):
            w.grad = given[2 * step + 2].to(kind).clone()
            optimizer.step()
        runs.append(w.detach().double())
    difference = (runs[0] - runs[1]).abs().max().item()
    assert difference <= bound
    assert difference > 0  # a different precision was used
    assert runs[0].abs().max() < 4


def test_first_group_may_be_empty():
    (w,) = scalar_weights([1.0, 2.0])
    opt = dp.ESGD([{"params": []}, {"params": [w]}], d_warmup=1)
    for _ in range(3):
        opt.zero_grad()
        opt.backward((w**4).sum())
        opt.step()
    assert opt.curvature_stats.products == 1


def test_betas_are_differentiable_through_products():
    beta = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)

    def outcome(beta):
        w = torch.tensor([0.7, -0.4], dtype=torch.float64, requires_grad=True) * 1.0
        opt = dp.Sophia([w], lr=0.01, betas=(0.9, beta), gamma=1.0, differentiable=True, update_d_every=1,
                        distribution="rademacher", probe=lambda weights, probes: [3.0 * v for v in probes])  # fmt: skip
        for step in range(3):
            w.grad = torch.tensor([1.0, -0.5], dtype=torch.float64) * (0.1 + 0.01 * step)
            opt.step()
        return (w**2).sum()

    (slope,) = torch.autograd.grad(outcome(beta), beta)
    h = 1e-6
    expected = (
        outcome(torch.tensor(0.5 + h, dtype=torch.float64)) - outcome(torch.tensor(0.5 - h, dtype=torch.float64))
    ).item() / (2 * h)
    assert slope.item() == pytest.approx(expected, rel=1e-5)  # truncation h^2, cancellation 1e-16/h
    assert expected != 0
